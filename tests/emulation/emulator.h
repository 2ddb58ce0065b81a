// CUDA on a CPU, for tests. Every thread of a block is a fiber, so that barriers really wait. The fibers run in a random
// order that depends on a seed, so that a missing barrier changes the results. Shared memory starts as NaN. Where several
// blocks run together, there is always a laggard, a random warp or block: it does not run, or no messages reach it, until
// nothing else can go on, or the next one is chosen. Messages are stores and copies into another block's shared memory.
// The others arrive later, at random; copies read their source only then. If no fiber makes progress, that is reported
// as a deadlock. Not modelled: weak memory, caches, alignment.
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
#define __syncthreads() emulator::wait(emulator::blocks[emulator::now->at].barrier)
#define RNNX_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::blocks[emulator::now->at].shared.data())

namespace emulator {
struct Index { unsigned x, y, z; };
struct Barrier { int needed = 0, arrived = 0; unsigned passed = 0; };
struct Warp { Barrier barrier; unsigned char slots[2][32][32]; };
struct Block { Barrier barrier; std::vector<unsigned char> shared; std::vector<Warp> warps; };
// An mbarrier for one thread and bytes: a phase ends once the thread has arrived and all expected bytes have come.
struct Counter { int bytes; unsigned short waiting, phase; };
struct Message { unsigned char* target; unsigned words[4]; Counter* counter; int block; const void* source; };
// A fiber is started once and then runs one body after the other. Switching is a jump, without a system call.
struct Fiber { ucontext_t context; jmp_buf here; Index thread, block; int at; bool done; std::vector<char> stack; };
inline Fiber* now;
inline jmp_buf scheduler;
inline Index block_dim, grid_dim;
inline std::vector<Block> blocks;  // those that run concurrently: one, a cluster, or the grid
inline int cluster_size;
inline std::vector<Barrier> clusters;
inline std::vector<Message> messages;  // on their way
inline std::mt19937 random;
inline unsigned long progress;
inline std::function<void()> body;
const int PATIENCE = 64;  // rounds without progress that are a deadlock, even if each has a laggard that cannot go on

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

inline void end_phase(Counter& c) {
  if (c.waiting || c.bytes) return;
  c.waiting = 1; c.phase++; progress++;
}
// The warp or block that lags behind: it does not run, or only the block's messages are held back.
struct Laggard { int block = -1, warp = -1; bool messages = false; };
inline Laggard laggard;
inline void next_laggard(int warps) {
  laggard.block = random() % blocks.size();
  const int kind = random() % 3;
  laggard.messages = kind == 0;
  laggard.warp = kind == 1 ? random() % warps : -1;
}
inline bool asleep(const Fiber& f) {
  const int warp = (f.thread.y * block_dim.x + f.thread.x) / 32;
  return f.at == laggard.block && !laggard.messages && (laggard.warp < 0 || laggard.warp == warp);
}
inline void deliver(const Message& one) {
  memcpy(one.target, one.source ? one.source : one.words, 16);
  one.counter->bytes -= 16;
  end_phase(*one.counter);
  progress++;
}
inline bool held_back(const Message& one) { return laggard.messages && one.block == laggard.block; }
// A message arrives at once, or after this round of all fibers, or after a later one.
inline void send(const Message& one) {
  if (random() % 4 || held_back(one)) messages.push_back(one);
  else deliver(one);
}
inline void end_round() {
  std::shuffle(messages.begin(), messages.end(), random);
  const auto due = std::partition(messages.begin(), messages.end(), held_back);
  size_t left = messages.end() - due;
  for (left = left ? random() % left : 0; messages.end() - due > (long)left; messages.pop_back()) deliver(messages.back());
}
// What all lanes of the warp pass, in order.
template <typename T> inline T* in_warp(const T& own) {
  static_assert(sizeof(T) <= 32, "");
  const unsigned thread = now->thread.y * block_dim.x + now->thread.x;
  Warp& warp = blocks[now->at].warps[thread / 32];
  auto& slots = warp.slots[warp.barrier.passed % 2];  // the next call uses the other ones
  memcpy(slots[thread % 32], &own, sizeof own);
  wait(warp.barrier);
  static thread_local T all[32];
  for (int i = 0; i < 32; i++) memcpy(&all[i], slots[i], sizeof own);
  return all;
}
inline int lane() { return (now->thread.y * block_dim.x + now->thread.x) % 32; }

// Run blocks (x, y) of threads (tx, ty), `together` neighbours in x at a time, in clusters of a size. Returns 1 after a
// deadlock, 2 if a block has ended before a message came, else 0.
inline int launch(unsigned x, unsigned y, unsigned tx, unsigned ty, size_t shared, unsigned together, unsigned size,
                  unsigned seed, std::function<void()> work) {
  static std::deque<Fiber> fibers;  // reused by later launches
  const unsigned threads = tx * ty;
  grid_dim = {x, y, 1}; block_dim = {tx, ty, 1}; body = work;
  random.seed(seed);
  for (unsigned by = 0; by < y; by++) for (unsigned bx = 0; bx < x; bx += together) {
    blocks.assign(together, {}); messages.clear();
    cluster_size = size; clusters.assign(together / size, {});
    for (Barrier& one : clusters) one.needed = size * threads;
    while (fibers.size() < together * threads) fibers.emplace_back();
    std::vector<int> order;
    for (unsigned k = 0; k < together; k++) {
      blocks[k].barrier.needed = threads; blocks[k].shared.assign(shared + 16, 0xFF);
      blocks[k].warps.resize((threads + 31) / 32);
      for (unsigned t = 0; t < threads; t++) blocks[k].warps[t / 32].barrier.needed++;
      for (unsigned t = 0; t < threads; t++) {
        Fiber& f = fibers[k * threads + t];
        f.thread = {t % tx, t / tx, 0}; f.block = {bx + k, by, 0}; f.at = k; f.done = false;
        order.push_back(k * threads + t);
      }
    }
    if (seed) std::shuffle(order.begin(), order.end(), random);
    laggard = {};
    bool left = true;
    for (int idle = 1; left;) {
      if (seed && together > 1 && (idle || random() % 16 == 0)) next_laggard((threads + 31) / 32);
      const unsigned long before = progress;
      left = false;
      for (int i : order) {
        if (!fibers[i].done && !asleep(fibers[i])) enter(fibers[i]);
        left |= !fibers[i].done;
      }
      if (!left && !messages.empty()) { fprintf(stderr, "emulator: a message after the end\n"); return 2; }
      end_round();
      idle = before == progress ? idle + 1 : 0;
      if (idle > PATIENCE) { fprintf(stderr, "emulator: deadlock\n"); fibers.clear(); return 1; }
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

// The instructions of instructions.cuh.
struct uint2 { unsigned x, y; };
typedef emulator::Counter ByteCounter;
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int cluster_rank() { return emulator::now->at % emulator::cluster_size; }
static inline void cluster_barrier() { emulator::wait(emulator::clusters[emulator::now->at / emulator::cluster_size]); }
static inline void start_counter(ByteCounter* counter) { *counter = {0, 1, 0}; }
static inline void expect_bytes(ByteCounter* counter, int bytes) {
  counter->bytes += bytes; counter->waiting--;
  emulator::end_phase(*counter);
}
static inline void wait_for_bytes(ByteCounter* counter, int parity) {
  while (counter->phase % 2 == parity) emulator::leave();
}
static inline int block_at(int rank) { return emulator::now->at - cluster_rank() + rank; }
template <typename T> static inline T* at_rank(T* p, int rank) {
  const auto offset = reinterpret_cast<unsigned char*>(p) - emulator::blocks[emulator::now->at].shared.data();
  return reinterpret_cast<T*>(emulator::blocks.at(block_at(rank)).shared.data() + offset);
}
static inline void send_bytes(void* target, const unsigned (&words)[4], ByteCounter* counter, int rank) {
  const auto there = at_rank((unsigned char*)target, rank);
  emulator::send({there, {words[0], words[1], words[2], words[3]}, at_rank(counter, rank), block_at(rank), nullptr});
}
static inline void copy_to_cluster(void* target, const void* source, int bytes, ByteCounter* counter) {
  for (int rank = 0; rank < emulator::cluster_size; rank++)
    for (int i = 0; i < bytes; i += 16)
      emulator::send({at_rank((unsigned char*)target + i, rank), {}, at_rank(counter, rank), block_at(rank),
                      (const char*)source + i});
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
  bits = std::isnan(x) ? bits : (bits + 0x1000u) & ~0x1FFFu;
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
