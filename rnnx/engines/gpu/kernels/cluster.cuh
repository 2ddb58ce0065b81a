// A whole pass in one kernel, for small hidden sizes (sm_90 or later). A cluster of blocks runs RNNX_ROWS examples and
// keeps the recurrent weights in shared memory for all steps. Each block computes some units and writes its results
// to the shared memory of the others, with one cluster barrier per stage and step and no grid barrier.
//
// Dimensions: `units` per block, `rows` = gates times units. For the macros see rnnx.engines.gpu.cluster_codegen.

#ifndef RNNX_EMULATED
__device__ __forceinline__ int cluster_rank() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The address in another block's shared memory that corresponds to `p` in this block's.
template <typename T> __device__ __forceinline__ T* cluster_peer(T* p, int rank) {
  unsigned long long address;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(p), "r"(rank));
  return reinterpret_cast<T*>(address);
}
#endif

// The numbers of one vector load, aligned to at most 16 bytes.
template <typename T, int count>
struct alignas(count * sizeof(T) < 16 ? count * sizeof(T) : 16) Vector { T numbers[count]; };
template <int count, typename T> __device__ __forceinline__ Vector<T, count> load_vector(const T* p) {
  return *reinterpret_cast<const Vector<T, count>*>(p);
}

template <typename T> __device__ __forceinline__ T* allocate(unsigned char*& free, i64 count) {
  T* result = reinterpret_cast<T*>(free);
  free += (count * (i64)sizeof(T) + 15) / 16 * 16;
  return result;
}

// Load the weight rows of this block's units. The row stride is a multiple of four; columns from n on are zero.
__device__ __forceinline__ void load_weights(
    storage* w, const storage* wh, int gates, int units, int first, int count, int n, int stride) {
  for (int e = threadIdx.x; e < gates * units * stride; e += RNNX_THREADS) {
    const int row = e / stride, k = e - row * stride, g = row / units, u = row - g * units;
    if (u < count && k < n) w[e] = wh[((i64)g * n + first + u) * n + k];
    else store(w + e, real(0));
  }
}

// Partial sums of W h, (RNNX_PARTS, RNNX_ROWS, rows); `operand` is (RNNX_ROWS, n4).
__device__ __forceinline__ void product(
    const storage* w, int rows, int stride, const real* operand, int n4, real* parts) {
  const int chunk = (n4 / 4 + RNNX_PARTS - 1) / RNNX_PARTS * 4;
  for (int item = threadIdx.x; item < rows * RNNX_PARTS; item += RNNX_THREADS) {
    const int part = item / rows, row = item - part * rows;
    const int stop = (part + 1) * chunk < n4 ? (part + 1) * chunk : n4;
    real sums[RNNX_ROWS];
    #pragma unroll
    for (int j = 0; j < RNNX_ROWS; j++) sums[j] = real(0);
    for (int k = part * chunk; k < stop; k += 4) {
      const auto weights = load_vector<4>(w + row * stride + k);
      #pragma unroll
      for (int j = 0; j < RNNX_ROWS; j++) {
        const auto h = load_vector<4>(operand + j * n4 + k);
        #pragma unroll
        for (int i = 0; i < 4; i++) sums[j] += load(weights.numbers + i) * h.numbers[i];
      }
    }
    #pragma unroll
    for (int j = 0; j < RNNX_ROWS; j++) parts[(part * RNNX_ROWS + j) * rows + row] = sums[j];
  }
}

// The sum over the first dimension of (count, RNNX_ROWS, columns).
template <int count> __device__ __forceinline__ real sum_parts(const real* parts, int columns, int j, int column) {
  real sum = real(0);
  #pragma unroll
  for (int part = 0; part < count; part++) sum += parts[(part * RNNX_ROWS + j) * columns + column];
  return sum;
}

// Write an element of the next product's operand to the shared memory of all blocks.
__device__ __forceinline__ void broadcast(real* target, real value) {
  for (int rank = 0; rank < RNNX_CLUSTER; rank++) *cluster_peer(target, rank) = value;
}

// Partial sums of W^T dz over this block's rows, (RNNX_ROW_PARTS, RNNX_ROWS, n4); `dz` is (rows, RNNX_ROWS).
__device__ __forceinline__ void product_back(
    const storage* w, int rows, int stride, const real* dz, int n4, real* parts) {
  const int fours = n4 / 4, chunk = (rows + RNNX_ROW_PARTS - 1) / RNNX_ROW_PARTS;
  for (int item = threadIdx.x; item < fours * RNNX_ROW_PARTS; item += RNNX_THREADS) {
    const int part = item / fours, k = (item - part * fours) * 4;
    const int stop = (part + 1) * chunk < rows ? (part + 1) * chunk : rows;
    real sums[RNNX_ROWS][4];
    #pragma unroll
    for (int j = 0; j < RNNX_ROWS; j++)
      for (int i = 0; i < 4; i++) sums[j][i] = real(0);
    for (int row = part * chunk; row < stop; row++) {
      const auto weights = load_vector<4>(w + row * stride + k);
      const auto d = load_vector<RNNX_ROWS>(dz + row * RNNX_ROWS);
      #pragma unroll
      for (int j = 0; j < RNNX_ROWS; j++)
        for (int i = 0; i < 4; i++) sums[j][i] += load(weights.numbers + i) * d.numbers[j];
    }
    #pragma unroll
    for (int j = 0; j < RNNX_ROWS; j++)
      for (int i = 0; i < 4; i++) parts[(part * RNNX_ROWS + j) * n4 + k + i] = sums[j][i];
  }
}

// Send this block's part of W^T dz to the units' owners; `received` is (RNNX_CLUSTER, RNNX_ROWS, units).
__device__ __forceinline__ void send_to_owners(const real* parts, int n, int n4, int units, int rank, real* received) {
  for (int e = threadIdx.x; e < RNNX_ROWS * n; e += RNNX_THREADS) {
    const int j = e / n, k = e - j * n, owner = k / units;
    const real sum = sum_parts<RNNX_ROW_PARTS>(parts, n4, j, k);
    cluster_peer(received, owner)[(rank * RNNX_ROWS + j) * units + k - owner * units] = sum;
  }
}
