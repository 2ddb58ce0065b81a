// The scheduler of the emulator. See emulator.h.
#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <deque>
#include <random>
#include <vector>

namespace emulator {
struct Barrier { int needed = 0, arrived = 0; unsigned passed = 0; };
struct Warp { Barrier barrier; unsigned char slots[2][32][32]; };
struct Block { Barrier barrier; std::vector<unsigned char> shared; std::vector<Warp> warps; };
struct Message { unsigned char* target; unsigned words[4]; Counter* counter; int block; const void* source; };
// A fiber is started once and then runs one body after the other. Switching is a jump, without a system call.
struct Fiber : Thread { ucontext_t context; jmp_buf here; bool done; std::vector<char> stack; };
Thread* now;
static jmp_buf scheduler;
Index block_dim, grid_dim;
static std::vector<Block> blocks;  // those that run concurrently: one, a cluster, or the grid
int cluster_size;
static std::vector<Barrier> clusters;
static std::vector<Message> messages;  // on their way
static std::mt19937 random;
unsigned long progress;
static Kernel* kernel;
static const long long* arguments;
const int PATIENCE = 64;  // rounds without progress that are a deadlock, even if each has a laggard that cannot go on

void leave() { if (!_setjmp(static_cast<Fiber*>(now)->here)) _longjmp(scheduler, 1); }
static void wait(Barrier& b) {
  const unsigned passed = b.passed;
  if (++b.arrived == b.needed) { b.arrived = 0; b.passed++; progress++; return; }
  while (b.passed == passed) leave();
}
void wait_for_block() { wait(blocks[now->at].barrier); }
void wait_for_cluster() { wait(clusters[now->at / cluster_size]); }
unsigned char* shared_memory() { return blocks[now->at].shared.data(); }
static void run_fiber() {
  for (;;) { kernel(arguments); static_cast<Fiber*>(now)->done = true; progress++; leave(); }
}
static void enter(Fiber& f) {
  now = &f;
  if (_setjmp(scheduler)) return;
  if (!f.stack.empty()) _longjmp(f.here, 1);
  f.stack.resize(32 << 10);
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.data(); f.context.uc_stack.ss_size = f.stack.size(); f.context.uc_link = nullptr;
  makecontext(&f.context, run_fiber, 0);
  setcontext(&f.context);
}

void end_phase(Counter& c) {
  if (c.waiting || c.bytes) return;
  c.waiting = 1; c.phase++; progress++;
}
// The warp or block that lags behind: it does not run, or only the block's messages are held back.
struct Laggard { int block = -1, warp = -1; bool messages = false; };
static Laggard laggard;
static void next_laggard(int warps) {
  laggard.block = random() % blocks.size();
  const int kind = random() % 3;
  laggard.messages = kind == 0;
  laggard.warp = kind == 1 ? random() % warps : -1;
}
static bool asleep(const Fiber& f) {
  const int warp = (f.thread.y * block_dim.x + f.thread.x) / 32;
  return f.at == laggard.block && !laggard.messages && (laggard.warp < 0 || laggard.warp == warp);
}
static void deliver(const Message& one) {
  memcpy(one.target, one.source ? one.source : one.words, 16);
  one.counter->bytes -= 16;
  end_phase(*one.counter);
  progress++;
}
static bool held_back(const Message& one) { return laggard.messages && one.block == laggard.block; }
// A message arrives at once, or after this round of all fibers, or after a later one.
void send(int rank, void* target, const unsigned* words, const void* source, Counter* counter) {
  const int block = now->at - now->at % cluster_size + rank;
  const auto there = [block](void* p) { return blocks.at(block).shared.data() + ((unsigned char*)p - shared_memory()); };
  Message one = {there(target), {}, (Counter*)there(counter), block, source};
  if (words) memcpy(one.words, words, sizeof one.words);
  if (random() % 4 || held_back(one)) messages.push_back(one);
  else deliver(one);
}
static void end_round() {
  std::shuffle(messages.begin(), messages.end(), random);
  const auto due = std::partition(messages.begin(), messages.end(), held_back);
  size_t left = messages.end() - due;
  for (left = left ? random() % left : 0; messages.end() - due > (long)left; messages.pop_back()) deliver(messages.back());
}

void gather(const void* own, int size, void* all) {
  const unsigned thread = now->thread.y * block_dim.x + now->thread.x;
  Warp& warp = blocks[now->at].warps[thread / 32];
  auto& slots = warp.slots[warp.barrier.passed % 2];  // the next call uses the other ones
  assert(size <= (int)sizeof slots[0]);
  memcpy(slots[thread % 32], own, size);
  wait(warp.barrier);
  for (int i = 0; i < 32; i++) memcpy((char*)all + i * size, slots[i], size);
}

// Run blocks (x, y) of threads (tx, ty), `together` neighbours in x at a time, in clusters of a size. Returns 1 after a
// deadlock, 2 if a block has ended before a message came, else 0.
int launch(unsigned x, unsigned y, unsigned tx, unsigned ty, size_t shared, unsigned together, unsigned size,
           unsigned seed, Kernel* given, const long long* numbers) {
  static std::deque<Fiber> fibers;  // reused by later launches
  const unsigned threads = tx * ty;
  grid_dim = {x, y, 1}; block_dim = {tx, ty, 1}; kernel = given; arguments = numbers;
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
int launch_plain(unsigned x, unsigned y, unsigned tx, unsigned ty, Kernel* kernel, const long long* arguments) {
  static Fiber f;
  grid_dim = {x, y, 1}; block_dim = {tx, ty, 1}; now = &f;
  for (unsigned by = 0; by < y; by++) for (unsigned bx = 0; bx < x; bx++)
    for (unsigned t = 0; t < tx * ty; t++) { f.block = {bx, by, 0}; f.thread = {t % tx, t / tx, 0}; kernel(arguments); }
  return 0;
}
}  // namespace emulator
