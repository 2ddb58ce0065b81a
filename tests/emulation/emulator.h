// CUDA on a CPU, for tests. Every thread of a block is a fiber, so that barriers really wait. The fibers run in a random
// order that depends on a seed, so that a missing barrier changes the results. Shared memory starts as NaN. Where several
// blocks run together, there is always a laggard, a random warp or block: it does not run, or no messages reach it, until
// nothing else can go on, or the next one is chosen. Messages are stores and copies into another block's shared memory.
// The others arrive later, at random; copies read their source only then. If no fiber makes progress, that is reported
// as a deadlock. Not modelled: weak memory, caches, alignment.
#pragma once
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS  // C's own math.h: C++'s takes most of the time of compiling a kernel
#include <math.h>
#include <string.h>
#define RNNX_EMULATED 1
#define __global__
#define __device__ inline
#define __forceinline__
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define threadIdx (emulator::now->thread)
#define blockIdx (emulator::now->block)
#define blockDim (emulator::block_dim)
#define gridDim (emulator::grid_dim)
#define __syncthreads() emulator::wait_for_block()
#define RNNX_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::shared_memory())


// What emulator.cpp defines, which is compiled once for all kernels.
namespace emulator {
struct Index { unsigned x, y, z; };
struct Thread { Index thread, block; int at; };  // `at`: the place of its block among those that run concurrently
// An mbarrier for one thread and bytes: a phase ends once the thread has arrived and all expected bytes have come.
struct Counter { int bytes; unsigned short waiting, phase; };
typedef void Kernel(const long long* arguments);
extern Thread* now;
extern Index block_dim, grid_dim;
extern int cluster_size;
extern unsigned long progress;
void leave();
void wait_for_block();
void wait_for_cluster();
unsigned char* shared_memory();
void end_phase(Counter&);
// Send 16 bytes, of `words` or, read when they arrive, of `source`, to the same place of a block of the cluster.
void send(int rank, void* target, const unsigned* words, const void* source, Counter*);
void gather(const void* own, int size, void* all);
int launch(unsigned x, unsigned y, unsigned tx, unsigned ty, size_t shared, unsigned together, unsigned size,
           unsigned seed, Kernel* kernel, const long long* arguments);
int launch_plain(unsigned x, unsigned y, unsigned tx, unsigned ty, Kernel* kernel, const long long* arguments);

// What all lanes of the warp pass, in order.
template <typename T> inline T* in_warp(const T& own) {
  static T all[32];
  gather(&own, sizeof own, all);
  return all;
}
inline int lane() { return (now->thread.y * block_dim.x + now->thread.x) % 32; }
}  // namespace emulator

// Of CUDA's mathematics, what C++ lacks.
static inline double normcdf(double x) { return erfcl(-x * 0.70710678118654752440L) / 2; }
static inline float normcdff(float x) { return (float)normcdf((double)x); }

struct half_bits; struct bfloat16_bits;
static inline float load(const half_bits* p) { _Float16 x; memcpy(&x, p, 2); return (float)x; }
static inline void store(half_bits* p, float x) { const _Float16 h = (_Float16)x; memcpy((void*)p, &h, 2); }
static inline float load(const bfloat16_bits* p) {
  unsigned short bits; memcpy(&bits, p, 2);
  const unsigned wide = (unsigned)bits << 16; float x; memcpy(&x, &wide, 4); return x;
}
static inline void store(bfloat16_bits* p, float x) {  // to nearest, ties to even
  unsigned bits; memcpy(&bits, &x, 4);
  const unsigned short upper = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const unsigned short result = __builtin_isnan(x) ? 0x7FC0 : upper; memcpy((void*)p, &result, 2);
}

// The instructions of instructions.cuh.
struct uint2 { unsigned x, y; };
typedef emulator::Counter ByteCounter;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int cluster_rank() { return emulator::now->at % emulator::cluster_size; }
static inline void cluster_barrier() { emulator::wait_for_cluster(); }
static inline void start_counter(ByteCounter* counter) { *counter = {0, 1, 0}; }
static inline void expect_bytes(ByteCounter* counter, int bytes) {
  counter->bytes += bytes; counter->waiting--;
  emulator::end_phase(*counter);
}
static inline void wait_for_bytes(ByteCounter* counter, int parity) {
  while (counter->phase % 2 == parity) emulator::leave();
}
static inline void send_bytes(void* target, const unsigned (&words)[4], ByteCounter* counter, int rank) {
  emulator::send(rank, target, words, nullptr, counter);
}
static inline void copy_to_cluster(void* target, const void* source, int bytes, ByteCounter* counter) {
  for (int rank = 0; rank < emulator::cluster_size; rank++)
    for (int i = 0; i < bytes; i += 16) emulator::send(rank, (char*)target + i, nullptr, (const char*)source + i, counter);
}
static inline void order_before_copies() {}
static inline void publish(void* target, const unsigned (&words)[4]) { memcpy(target, words, 16); }
static inline void arrive_and_wait(unsigned* count, unsigned blocks) {
  ++*count; emulator::progress++;
  while (*count < blocks) emulator::leave();
}
template <typename T> static inline T from_lane(T x, int lane) { return emulator::in_warp(x)[lane]; }
template <typename T> static inline T from_lane_xor(T x, int mask) { return emulator::in_warp(x)[emulator::lane() ^ mask]; }
template <typename T> static inline uint2 bits_of(T x) {
  unsigned words[2] = {};
  memcpy(words, &x, sizeof x);
  return {words[0], words[sizeof x / 8]};
}
static inline float to_tf32(float x) {  // to nearest, ties away from zero
  unsigned bits; memcpy(&bits, &x, 4);
  bits = __builtin_isnan(x) ? bits : (bits + 0x1000u) & ~0x1FFFu;
  memcpy(&x, &bits, 4); return x;
}
// Number k of a fragment's register: two per register in 16 bits, else one.
static inline float part_of(const half_bits*, unsigned word, int k) { word >>= 16 * k; return load((const half_bits*)&word); }
static inline float part_of(const bfloat16_bits*, unsigned word, int k) {
  word >>= 16 * k; return load((const bfloat16_bits*)&word);
}
static inline float part_of(const float*, unsigned word, int) { word &= ~0x1FFFu; float x; memcpy(&x, &word, 4); return x; }
// mma.m16n8k16 in 16 bits, mma.m16n8k8 in TF32, with the fragments of the PTX manual.
template <typename T> static inline void multiply(T, float (&d)[4], const unsigned* a, const unsigned* b) {
  struct Fragments { unsigned a[4], b[2]; };
  const Fragments* all = emulator::in_warp(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int packed = sizeof(T) == 2 ? 2 : 1, columns = 8 * packed, lane = emulator::lane();
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < columns; k++) {
      const int quarter = k / packed % 4, upper = k / (columns / 2);
      const unsigned left = all[row % 8 * 4 + quarter].a[row / 8 + 2 * upper], right = all[column * 4 + quarter].b[upper];
      d[i] += part_of((const T*)0, left, k % packed) * part_of((const T*)0, right, k % packed);
    }
  }
}
