// Parts of the persistent kernels: a whole pass in one kernel, on clusters of thread blocks (sm_90 or later). Each block
// keeps the recurrent weights of its units in registers for all steps. Blocks exchange the operands of the recurrent
// products with asynchronous stores into each other's shared memory, which a barrier counts by bytes.
//
// A group of RNNX_GROUP blocks runs RNNX_EXAMPLES examples, a multiple of 8. A group is a cluster, or, with RNNX_GRID,
// many clusters, which exchange operands through global memory. RNNX_CLUSTER: blocks of a cluster. RNNX_UNITS: units of
// a block, a multiple of 8. RNNX_WARPS: warps of a block. RNNX_TENSOR: whether products run on tensor cores; float32 is
// TF32 there. For who computes what see rnnx.engines.gpu.persistent.

// --- operands ---
// An operand has K numbers per example, in chunks of 16 bytes: (K / CHUNK, RNNX_EXAMPLES) chunks. A warp multiplies a
// tile of 8 examples at once. Chunks are permuted within a tile, so that its lanes read without bank conflicts.
constexpr int CHUNK = 16 / sizeof(storage), TILE = 8;
__device__ __forceinline__ int place(int chunk, int example) { return chunk * RNNX_EXAMPLES + (example ^ chunk % 4 * 2); }
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

#if !RNNX_GRID
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
    Chunk* target = buffers + buffer * CHUNKS + place(k / CHUNK, example);
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
#else
// The same for a group of many clusters. Blocks publish their chunks in global memory, and wait at a barrier. Each
// block then copies its share to all blocks of its cluster. One buffer in shared memory is enough: no block is past the
// barrier, and copies, before all blocks have arrived there, after their products with the last operand. Two are needed
// in global memory: operand `turn` takes the place of operand `turn` - 2 after the barrier of operand `turn` - 1, where
// blocks arrive after they have received operand `turn` - 2.
template <int SENT, int K> struct Exchange {
  static constexpr int SENT_CHUNKS = SENT / CHUNK * RNNX_EXAMPLES, BYTES = SENT_CHUNKS * (int)sizeof(Chunk);
  Chunk* buffer;        // (K / CHUNK, RNNX_EXAMPLES)
  ByteCounter* counter;
  Chunk* published;     // (2, SENT_CHUNKS)
  unsigned* arrived;    // arrivals at the barriers so far: zero before the launch
  static_assert(SENT_CHUNKS % RNNX_CLUSTER == 0, "");

  // See above.
  __device__ __forceinline__ void start() const {
    for (int i = threadIdx.x; i < K * RNNX_EXAMPLES; i += 32 * RNNX_WARPS)
      store(buffer[i / CHUNK].numbers + i % CHUNK, real(0));
    // Copies, too, must come after these stores.
    order_before_copies();
    if (threadIdx.x == 0) {
      start_counter(counter);
      expect_bytes(counter, BYTES);
    }
  }
  __device__ __forceinline__ void send(int turn, int k, int example, real x) const {
    unsigned words[4];
    gather(factor(x), words);
    if (threadIdx.x % CHUNK == 0) publish(published + turn % 2 * SENT_CHUNKS + place(k / CHUNK, example), words);
  }
  // All threads call it. It also separates the products before from those after it.
  __device__ __forceinline__ const Chunk* receive(int turn) const {
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive_and_wait(arrived, (turn + 1) * RNNX_GROUP);
      const int share = SENT_CHUNKS / RNNX_CLUSTER, first = cluster_rank() * share;
      const Chunk* source = published + turn % 2 * SENT_CHUNKS + first;
      copy_to_cluster(buffer + first, source, share * (int)sizeof(Chunk), counter);
    }
    wait_for_bytes(counter, turn % 2);
    if (threadIdx.x == 0) expect_bytes(counter, BYTES);
    return buffer;
  }
};
#endif

// --- products ---
// A product of ROWS rows of weights, which lie in registers, with an operand. The K columns are split in SPLIT parts; a
// warp does one part of RNNX_WARP_ROWS rows, for all examples, or for a share if there are more warps. Partial sums are
// (SPLIT, RNNX_EXAMPLES, STRIDE) in shared memory.
template <int ROWS, int K, int SPLIT> struct Product {
  static constexpr int ROW_GROUPS = (ROWS + RNNX_WARP_ROWS - 1) / RNNX_WARP_ROWS;
  static constexpr int STRIDE = ROW_GROUPS * RNNX_WARP_ROWS + 4;  // without bank conflicts
  static constexpr int MORE = RNNX_WARPS / (ROW_GROUPS * SPLIT);
  static constexpr int SHARES = MORE < RNNX_EXAMPLES / TILE ? MORE : RNNX_EXAMPLES / TILE;  // of the examples
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
  static_assert(ROW_GROUPS * SPLIT <= RNNX_WARPS, "");

  __device__ __forceinline__ static int warp() { return threadIdx.x / 32; }
  __device__ __forceinline__ static int lane() { return threadIdx.x % 32; }
  __device__ __forceinline__ static bool idle() { return warp() >= ROW_GROUPS * SPLIT * SHARES; }
  __device__ __forceinline__ static int row() { return warp() % ROW_GROUPS * RNNX_WARP_ROWS + lane() / LANES; }
  __device__ __forceinline__ static int part() { return warp() / ROW_GROUPS % SPLIT; }
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
  // Write the partial sums for an operand.
  __device__ __forceinline__ void operator()(const Chunk* operand, real* sums) const {
    if (idle()) return;
    #pragma unroll 1
    for (int first = warp() / (ROW_GROUPS * SPLIT) * TILE; first < RNNX_EXAMPLES; first += SHARES * TILE)
      multiply_tile(operand, sums, first);
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
  __device__ __forceinline__ void multiply_tile(const Chunk* operand, real* sums, int first) const {
    float d[TILES][4] = {};
    #pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const Words b = reinterpret_cast<const Words*>(operand)[place(chunk(step), first + lane() / LANES)];
      #pragma unroll
      for (int tile = 0; tile < TILES; tile++)
        #pragma unroll
        for (int i = 0; i < 2; i++) multiply(storage(), d[tile], weights[tile][step] + 4 * i, b.words + 2 * i);
    }
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++)
      #pragma unroll
      for (int i = 0; i < 4; i++) {
        const int example = first + lane() % LANES * 2 + i % 2;
        sums[(part() * RNNX_EXAMPLES + example) * STRIDE + row() + tile * 16 + i / 2 * 8] = d[tile][i];
      }
  }
#else
  template <typename Weight> __device__ __forceinline__ static Number number(Weight weight, int step, int tile, int i) {
    return factor(weight(row() + tile * 4, chunk(step) * CHUNK + i));
  }
  __device__ __forceinline__ void multiply_tile(const Chunk* operand, real* sums, int first) const {
    const int own = lane() % LANES;
    real totals[TILES][TILE] = {};
    #pragma unroll
    for (int step = 0; step < STEPS; step++)
      #pragma unroll
      for (int i = 0; i < TILE; i++) {  // lanes read different examples: no bank conflicts
        const Chunk b = operand[place(chunk(step), first + (i ^ own))];
        #pragma unroll
        for (int tile = 0; tile < TILES; tile++)
          #pragma unroll
          for (int c = 0; c < CHUNK; c++) totals[tile][i] += weights[tile][step][c] * b.numbers[c];
      }
    // Element i of a lane belongs to example i ^ own of the tile. Each lane ends with the sum of example `own`.
    #pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      #pragma unroll
      for (int half = TILE / 2; half; half /= 2)
        #pragma unroll
        for (int i = 0; i < half; i++) totals[tile][i] += from_lane_xor(totals[tile][i + half], half);
      sums[(part() * RNNX_EXAMPLES + first + own) * STRIDE + row() + tile * 4] = totals[tile][0];
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
