// CUDA on a CPU, for tests. Every thread of a block is a fiber, so that barriers really wait. The fibers run in a random
// order that depends on a seed, so that a missing barrier changes the results. Shared memory starts as NaN. If no fiber
// makes progress, that is reported as a deadlock. Not modelled: weak memory, caches, alignment.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <vector>
#define RNNX_EMULATED 1
#define __global__
#define __device__ static
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define threadIdx (emulator::now->thread)
#define blockIdx (emulator::now->block)
#define blockDim (emulator::block_dim)
#define gridDim (emulator::grid_dim)
#define __syncthreads() emulator::wait(emulator::blocks[emulator::now->at].barrier)
#define RNNX_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::blocks[emulator::now->at].shared.data())

namespace emulator {
struct Index { unsigned x, y, z; };
struct Barrier { int needed = 0, arrived = 0; unsigned passed = 0; };
struct Block { Barrier barrier; std::vector<unsigned char> shared; };
// A fiber is started once and then runs one body after the other. Switching is a jump, without a system call.
struct Fiber { ucontext_t context; jmp_buf here; Index thread, block; int at; bool done; std::vector<char> stack; };
inline Fiber* now;
inline jmp_buf scheduler;
inline Index block_dim, grid_dim;
inline std::vector<Block> blocks;  // those that run concurrently: one, or a cluster
inline Barrier cluster;
inline unsigned long progress;
inline std::function<void()> body;

inline void leave() { if (!_setjmp(now->here)) _longjmp(scheduler, 1); }
inline void wait(Barrier& b) {
  const unsigned passed = b.passed;
  if (++b.arrived == b.needed) { b.arrived = 0; b.passed++; progress++; return; }
  while (b.passed == passed) leave();
}
inline void run_fiber() {
  for (;;) { body(); now->done = true; progress++; leave(); }
}
inline void enter(Fiber& f) {
  now = &f;
  if (_setjmp(scheduler)) return;
  if (!f.stack.empty()) _longjmp(f.here, 1);
  f.stack.resize(32 << 10);
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.data(); f.context.uc_stack.ss_size = f.stack.size(); f.context.uc_link = nullptr;
  makecontext(&f.context, run_fiber, 0);
  setcontext(&f.context);
}

// Run blocks (x, y) of threads (tx, ty), `together` neighbours in x at a time. Returns 1 after a deadlock, else 0.
inline int launch(unsigned x, unsigned y, unsigned tx, unsigned ty, size_t shared, unsigned together, unsigned seed,
                  std::function<void()> work) {
  static std::deque<Fiber> fibers;  // reused by later launches
  const unsigned threads = tx * ty;
  grid_dim = {x, y, 1}; block_dim = {tx, ty, 1}; body = work;
  std::mt19937 random(seed);
  for (unsigned by = 0; by < y; by++) for (unsigned bx = 0; bx < x; bx += together) {
    blocks.assign(together, {}); cluster = {}; cluster.needed = together * threads;
    while (fibers.size() < together * threads) fibers.emplace_back();
    std::vector<int> order;
    for (unsigned k = 0; k < together; k++) {
      blocks[k].barrier.needed = threads; blocks[k].shared.assign(shared + 16, 0xFF);
      for (unsigned t = 0; t < threads; t++) {
        Fiber& f = fibers[k * threads + t];
        f.thread = {t % tx, t / tx, 0}; f.block = {bx + k, by, 0}; f.at = k; f.done = false;
        order.push_back(k * threads + t);
      }
    }
    if (seed) std::shuffle(order.begin(), order.end(), random);
    for (bool left = true; left;) {
      const unsigned long before = progress;
      left = false;
      for (int i : order) if (!fibers[i].done) { left = true; enter(fibers[i]); }
      if (left && before == progress) { fprintf(stderr, "emulator: deadlock\n"); return 1; }
    }
  }
  return 0;
}

// Without fibers, for kernels without barriers.
inline int launch_plain(unsigned x, unsigned y, unsigned tx, unsigned ty, std::function<void()> work) {
  static Fiber f;
  grid_dim = {x, y, 1}; block_dim = {tx, ty, 1}; now = &f;
  for (unsigned by = 0; by < y; by++) for (unsigned bx = 0; bx < x; bx++)
    for (unsigned t = 0; t < tx * ty; t++) { f.block = {bx, by, 0}; f.thread = {t % tx, t / tx, 0}; work(); }
  return 0;
}
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
  const unsigned short result = std::isnan(x) ? 0x7FC0 : upper; memcpy((void*)p, &result, 2);
}

static inline int cluster_rank() { return emulator::now->at; }
static inline void cluster_barrier() { emulator::wait(emulator::cluster); }
template <typename T> static inline T* cluster_peer(T* p, int rank) {
  const auto offset = reinterpret_cast<unsigned char*>(p) - emulator::blocks[emulator::now->at].shared.data();
  return reinterpret_cast<T*>(emulator::blocks[rank].shared.data() + offset);
}
