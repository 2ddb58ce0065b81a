// The instructions of sm_90 and later that persistent kernels use. The emulation has its own.
#ifndef RNNX_EMULATED
typedef unsigned long long ByteCounter;  // an mbarrier, which completes a phase after the expected bytes have arrived

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ int cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}
__device__ __forceinline__ void start_counter(ByteCounter* counter) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(counter)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void expect_bytes(ByteCounter* counter, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(counter)), "r"(bytes)
               : "memory");
}
// Wait until the counter has completed its current phase, whose number has this parity.
__device__ __forceinline__ void wait_for_bytes(ByteCounter* counter, int parity) {
  unsigned done = 0;
  while (!done)
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done) : "r"(shared_address(counter)), "r"(parity) : "memory");
}
// Store 16 bytes, and count them, in the shared memory of another block, at the addresses that this block has.
__device__ __forceinline__ void send_bytes(void* target, const unsigned (&words)[4], ByteCounter* counter, int rank) {
  unsigned there, counter_there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(target)), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter_there) : "r"(shared_address(counter)), "r"(rank));
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there),
      "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(counter_there) : "memory");
}
// Copy 16-byte chunks from global memory to the same place of every block of the cluster, and count their bytes there.
__device__ __forceinline__ void copy_to_cluster(void* target, const void* source, int bytes, ByteCounter* counter) {
  asm volatile("fence.proxy.async.global;" ::: "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(target)), "l"(source), "r"(bytes), "r"(shared_address(counter)),
      "h"((unsigned short)((1 << RNNX_CLUSTER) - 1)) : "memory");
}
// Order this thread's stores to shared memory before copies to it.
__device__ __forceinline__ void order_before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Store a chunk in global memory, for `copy_to_cluster` of other blocks.
__device__ __forceinline__ void publish(void* target, const unsigned (&words)[4]) {
  *reinterpret_cast<uint4*>(target) = make_uint4(words[0], words[1], words[2], words[3]);
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
// Count this block in, and wait for a number of blocks. What their threads stored before a __syncthreads is then visible.
__device__ __forceinline__ void arrive_and_wait(unsigned* count, unsigned blocks) {
  unsigned arrived;
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(count) : "memory");
  while (arrived < blocks);
}
template <typename T> __device__ __forceinline__ T from_lane(T x, int lane) { return __shfl_sync(~0u, x, lane); }
template <typename T> __device__ __forceinline__ T from_lane_xor(T x, int mask) { return __shfl_xor_sync(~0u, x, mask); }

// The 32-bit words of a number: the lower and the upper one, which are equal unless it has 64 bits.
__device__ __forceinline__ uint2 bits_of(float x) { return make_uint2(__float_as_uint(x), __float_as_uint(x)); }
__device__ __forceinline__ uint2 bits_of(double x) { return make_uint2(__double2loint(x), __double2hiint(x)); }
__device__ __forceinline__ uint2 bits_of(half_bits x) { return make_uint2(x.bits, x.bits); }
__device__ __forceinline__ uint2 bits_of(bfloat16_bits x) { return make_uint2(x.bits, x.bits); }

__device__ __forceinline__ float to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}
// D += A B in a warp, with 16 rows of A and 8 columns of B: 16 columns of A in 16 bits, 8 in TF32.
#define RNNX_MULTIPLY(type, shape)                                                                           \
  __device__ __forceinline__ void multiply(type, float (&d)[4], const unsigned* a, const unsigned* b) {      \
    asm("mma.sync.aligned." shape " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                 \
  }
RNNX_MULTIPLY(half_bits, "m16n8k16.row.col.f32.f16.f16.f32")
RNNX_MULTIPLY(bfloat16_bits, "m16n8k16.row.col.f32.bf16.bf16.f32")
RNNX_MULTIPLY(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#endif
