// Parts of the persistent kernels: a whole pass in one kernel, on clusters of thread blocks (sm_90 or later). Each block
// keeps the recurrent weights of its units in registers for all steps. Blocks exchange the operands of the recurrent
// products with asynchronous stores into each other's shared memory, which a barrier counts by bytes.
//
// Each cluster runs RNNX_EXAMPLES examples. RNNX_CLUSTER: blocks of a cluster. RNNX_UNITS: units of a block, a multiple
// of 8. RNNX_WARPS: warps of a block. RNNX_TENSOR: whether products run on tensor cores; float32 is TF32 there. For who
// computes what see rnnx.engines.gpu.persistent.

// --- instructions; the emulation has its own ---
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

// --- operands ---
// An operand has K numbers per example, in chunks of 16 bytes: (K / CHUNK, RNNX_EXAMPLES) chunks.
constexpr int CHUNK = 16 / sizeof(storage);
struct alignas(16) Chunk { storage numbers[CHUNK]; };
struct alignas(16) Words { unsigned words[4]; };

// A number, given as `real` or `storage`, as products multiply it.
template <typename T> __device__ __forceinline__ storage factor(T x) {
  storage result;
  if constexpr (sizeof(T) == 2) result = x;
  else if constexpr (RNNX_TENSOR && sizeof(storage) == 4) result = to_tf32(x);
  else store(&result, x);
  return result;
}

// A number as it is read again from memory.
__device__ __forceinline__ real stored(real x) {
  storage result;
  store(&result, x);
  return load(&result);
}

// The chunk that the lanes of CHUNK neighbouring units make up; each gives one number.
__device__ __forceinline__ void gather(storage own, unsigned (&words)[4]) {
  const int lane = threadIdx.x % 32, first = lane / CHUNK * CHUNK;
  uint2 bits = bits_of(own);
  if constexpr (sizeof(storage) == 2) {
    const unsigned other = from_lane_xor(bits.x, 1);
    bits.x = bits.y = lane % 2 ? other | bits.x << 16 : bits.x | other << 16;
  }
  #pragma unroll
  for (int i = 0; i < 4; i++) words[i] = from_lane(i % 2 ? bits.y : bits.x, first + i * CHUNK / 4);
}

// The operand of a recurrent product: SENT numbers per example, padded with zeros to K. Two buffers are enough. A block
// sends operand `turn` after it has received operand `turn` - 1 from all blocks. Each of them sent it after its product
// with operand `turn` - 2, the last one in the same buffer. The buffers' byte counters expect the next bytes then, too.
template <int SENT, int K> struct Exchange {
  static constexpr int CHUNKS = K / CHUNK * RNNX_EXAMPLES, BYTES = SENT * RNNX_EXAMPLES * (int)sizeof(storage);
  Chunk* buffers;         // (2, CHUNKS)
  ByteCounter* counters;  // of both buffers

  // All blocks must do this, and pass a cluster barrier, before the first `send`.
  __device__ __forceinline__ void start() const {
    for (int i = threadIdx.x; i < 2 * CHUNKS * CHUNK; i += 32 * RNNX_WARPS)
      store(buffers[i / CHUNK].numbers + i % CHUNK, real(0));
    if (threadIdx.x < 2) {
      start_counter(counters + threadIdx.x);
      expect_bytes(counters + threadIdx.x, BYTES);
    }
  }
  // Send number k of an example to all blocks. Neighbouring lanes have neighbouring k.
  __device__ __forceinline__ void send(int turn, int k, int example, real x) const {
    unsigned words[4];
    gather(factor(x), words);
    const int buffer = turn % 2;
    Chunk* target = buffers + buffer * CHUNKS + k / CHUNK * RNNX_EXAMPLES + example;
    #pragma unroll
    for (int i = 0; i < RNNX_CLUSTER; i += CHUNK) {
      const int rank = i + threadIdx.x % CHUNK;
      if (rank < RNNX_CLUSTER) send_bytes(target, words, counters + buffer, rank);
    }
  }
  __device__ __forceinline__ const Chunk* receive(int turn) const {
    const int buffer = turn % 2;
    wait_for_bytes(counters + buffer, turn / 2 % 2);
    if (threadIdx.x == 0) expect_bytes(counters + buffer, BYTES);
    return buffers + buffer * CHUNKS;
  }
};

// --- products ---
// A product of ROWS rows of weights, which lie in registers, with an operand. The K columns are split in SPLIT parts; a
// warp does one part of RNNX_WARP_ROWS rows. Partial sums are (SPLIT, RNNX_EXAMPLES, STRIDE) in shared memory.
template <int ROWS, int K, int SPLIT> struct Product {
  static constexpr int GROUPS = (ROWS + RNNX_WARP_ROWS - 1) / RNNX_WARP_ROWS;
  static constexpr int STRIDE = GROUPS * RNNX_WARP_ROWS + 4;  // without bank conflicts
#if RNNX_TENSOR
  static constexpr int LANES = 4, TILES = RNNX_WARP_ROWS / 16, COUNT = 8;
  typedef unsigned Number;
#else
  static constexpr int LANES = 8, TILES = RNNX_WARP_ROWS / 4, COUNT = CHUNK;
  typedef storage Number;
#endif
  static constexpr int STEPS = K / (LANES * CHUNK) / SPLIT;
  Number weights[TILES][STEPS][COUNT];  // of LANES lanes that share a row, TILES rows or tiles of 16 rows
  static_assert(STEPS * LANES * CHUNK * SPLIT == K, "");
  static_assert(GROUPS * SPLIT <= RNNX_WARPS, "");

  __device__ __forceinline__ static int warp() { return threadIdx.x / 32; }
  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
  __device__ __forceinline__ static bool idle() { return warp() >= GROUPS * SPLIT; }
  __device__ __forceinline__ static int row() { return warp() % GROUPS * RNNX_WARP_ROWS + lane() / LANES; }
  __device__ __forceinline__ static int part() { return warp() / GROUPS; }
  // A thread's chunk of a step. The order of the terms of a sum is free, so whole chunks go to the lanes.
  __device__ __forceinline__ static int chunk(int step) { return (part() * STEPS + step) * LANES + lane() % LANES; }

  // Load the weights, through shared memory: registers cannot be indexed in a loop, and without one, they would spill.
  template <typename Weight> __device__ __forceinline__ void load(Weight weight, unsigned char* shared) {
    constexpr int THREADS = 32 * RNNX_WARPS;
    Number* own = reinterpret_cast<Number*>(shared) + threadIdx.x;
    #pragma unroll 1
    for (int step = 0; step < STEPS; step++)
      #pragma unroll
      for (int i = 0; i < TILES * COUNT; i++)
        own[(step * TILES * COUNT + i) * THREADS] = number(weight, step, i / COUNT, i % COUNT);
    #pragma unroll
    for (int step = 0; step < STEPS; step++)
      #pragma unroll
      for (int i = 0; i < TILES * COUNT; i++)
        weights[i / COUNT][step][i % COUNT] = own[(step * TILES * COUNT + i) * THREADS];
  }
  // The sum over all columns.
  __device__ __forceinline__ static real sum(const real* sums, int example, int row) {
    real total = real(0);
    #pragma unroll
    for (int s = 0; s < SPLIT; s++) total += sums[(s * RNNX_EXAMPLES + example) * STRIDE + row];
    return total;
  }
#if RNNX_TENSOR
  // The A fragments of two instructions. In a chunk of B, words 0 and 1 belong to the first.
  template <typename Weight> __device__ __forceinline__ static Number number(Weight weight, int step, int tile, int i) {
    const int r = row() + tile * 16 + i % 2 * 8, k = chunk(step) * CHUNK + (i / 4 * 2 + i / 2 % 2) * CHUNK / 4;
    const unsigned first = bits_of(factor(weight(r, k))).x;
    return CHUNK == 8 ? first | bits_of(factor(weight(r, k + 1))).x << 16 : first;
  }
  __device__ __forceinline__ void operator()(const Chunk* operand, real* sums) const {
    if (idle()) return;
    float d[TILES][4] = {};
    #pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const Words b = reinterpret_cast<const Words*>(operand)[chunk(step) * RNNX_EXAMPLES + lane() / LANES];
      #pragma unroll
      for (int tile = 0; tile < TILES; tile++)
        #pragma unroll
        for (int i = 0; i < 2; i++) multiply(storage(), d[tile], weights[tile][step] + 4 * i, b.words + 2 * i);
    }
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++)
      #pragma unroll
      for (int i = 0; i < 4; i++) {
        const int example = lane() % LANES * 2 + i % 2;
        sums[(part() * RNNX_EXAMPLES + example) * STRIDE + row() + tile * 16 + i / 2 * 8] = d[tile][i];
      }
  }
#else
  template <typename Weight> __device__ __forceinline__ static Number number(Weight weight, int step, int tile, int i) {
    return factor(weight(row() + tile * 4, chunk(step) * CHUNK + i));
  }
  __device__ __forceinline__ void operator()(const Chunk* operand, real* sums) const {
    if (idle()) return;
    const int own = lane() % LANES;
    real totals[TILES][RNNX_EXAMPLES] = {};
    #pragma unroll
    for (int step = 0; step < STEPS; step++)
      #pragma unroll
      for (int i = 0; i < RNNX_EXAMPLES; i++) {  // lanes read different examples: no bank conflicts
        const Chunk b = operand[chunk(step) * RNNX_EXAMPLES + (i ^ own)];
        #pragma unroll
        for (int tile = 0; tile < TILES; tile++)
          #pragma unroll
          for (int c = 0; c < CHUNK; c++) totals[tile][i] += weights[tile][step][c] * b.numbers[c];
      }
    // Element i of a lane belongs to example i ^ own. Each lane ends with the sum of example `own`.
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      #pragma unroll
      for (int half = RNNX_EXAMPLES / 2; half; half /= 2)
        #pragma unroll
        for (int i = 0; i < half; i++) totals[tile][i] += from_lane_xor(totals[tile][i + half], half);
      sums[(part() * RNNX_EXAMPLES + own) * STRIDE + row() + tile * 4] = totals[tile][0];
    }
  }
#endif
};

// An element of the recurrent weights of a stage, (gates * n, n): zero in the padding.
__device__ __forceinline__ storage weight(const storage* wh, int gates, i64 n, int gate, int unit, int k) {
  storage result;
  if (gate < gates && unit < n && k < n) result = wh[(gate * n + unit) * n + k];
  else store(&result, real(0));
  return result;
}
