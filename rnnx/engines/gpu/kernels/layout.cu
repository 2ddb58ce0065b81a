// Layout conversion, packing and sums for gradients: the kernels common to all cells.
// Dimensions: T steps, m examples, n features or units.

// Copy an array with strides (sn, sm, st), in elements, to dst (T, m, n) in C order. Write zeros past each length, and
// everywhere if src is null. Blocks of 32 x 8 threads; blockIdx.x counts tiles of features times examples, blockIdx.y
// tiles of steps, in a grid-stride loop.
template <typename From, typename To>
__device__ __forceinline__ void copy_time_major(
    const From* src, i64 sn, i64 sm, i64 st, To* dst, const i64* lengths, i64 n_steps, i64 m, i64 n) {
  RNNX_SHARED(To, tile);  // (32, 33)
  const i64 tiles = (n + 31) / 32, j = blockIdx.x / tiles, u0 = (blockIdx.x % tiles) * 32;
  const bool by_time = st < sn;  // for coalesced reads
  const i64 end = lengths ? lengths[j] : n_steps;
  const int x = threadIdx.x;
  for (i64 t0 = (i64)blockIdx.y * 32; t0 < n_steps; t0 += (i64)gridDim.y * 32) {
    for (int y = threadIdx.y; y < 32; y += blockDim.y) {
      const int dt = by_time ? x : y, du = by_time ? y : x;
      const i64 t = t0 + dt, u = u0 + du;
      if (t < n_steps && u < n) {
        if (src && t < end) store(tile + dt * 33 + du, load(src + t * st + j * sm + u * sn));
        else store(tile + dt * 33 + du, real(0));
      }
    }
    __syncthreads();
    for (int y = threadIdx.y; y < 32; y += blockDim.y) {
      const i64 t = t0 + y, u = u0 + x;
      if (t < n_steps && u < n) dst[(t * m + j) * n + u] = tile[y * 33 + x];
    }
    __syncthreads();
  }
}

extern "C" __global__ void time_major(
    const storage* src, i64 sn, i64 sm, i64 st, storage* dst, const i64* lengths, i64 n_steps, i64 m, i64 n) {
  copy_time_major(src, sn, sm, st, dst, lengths, n_steps, m, n);
}
extern "C" __global__ void time_major_to_real(
    const storage* src, i64 sn, i64 sm, i64 st, real* dst, const i64* lengths, i64 n_steps, i64 m, i64 n) {
  copy_time_major(src, sn, sm, st, dst, lengths, n_steps, m, n);
}
extern "C" __global__ void time_major_from_real(
    const real* src, i64 sn, i64 sm, i64 st, storage* dst, const i64* lengths, i64 n_steps, i64 m, i64 n) {
  copy_time_major(src, sn, sm, st, dst, lengths, n_steps, m, n);
}

// Column sums of (rows, columns) in a fixed order: first over chunks of `chunk` rows, then over the chunks.
// Blocks of 32 x 8 threads; blockIdx.x counts tiles of columns, blockIdx.y chunks.
template <typename From, typename To>
__device__ __forceinline__ void sum_columns(const From* a, i64 stride, i64 rows, i64 columns, i64 chunk, To* sums) {
  RNNX_SHARED(real, partial);  // (8, 32)
  const i64 c = (i64)blockIdx.x * 32 + threadIdx.x, first = (i64)blockIdx.y * chunk;
  const i64 stop = first + chunk < rows ? first + chunk : rows;
  real total = real(0);
  if (c < columns)
    for (i64 r = first + threadIdx.y; r < stop; r += 8) total += load(a + r * stride + c);
  partial[threadIdx.y * 32 + threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y == 0 && c < columns) {
    for (int y = 1; y < 8; y++) total += partial[y * 32 + threadIdx.x];
    store(sums + (i64)blockIdx.y * columns + c, total);
  }
}

extern "C" __global__ void sum_chunks(
    const storage* a, i64 stride, i64 rows, i64 columns, i64 chunk, real* sums) {
  sum_columns(a, stride, rows, columns, chunk, sums);
}
extern "C" __global__ void sum_partial_sums(const real* a, i64 stride, i64 rows, i64 columns, i64 chunk, storage* sums) {
  sum_columns(a, stride, rows, columns, chunk, sums);
}

// Scatter-add in a fixed order: column k of dst (columns, n_x) is the sum of the rows r of a (rows, columns) with
// index[r] == k. Blocks of 128 threads; blockIdx.x counts n_x indices times tiles of columns.
extern "C" __global__ void scatter_add(
    const storage* a, i64 stride, const i64* index, i64 rows, i64 columns, storage* dst, i64 dst_stride) {
  RNNX_SHARED(int, matches);  // of 128 rows
  const i64 tiles = (columns + 127) / 128, selected = blockIdx.x / tiles;
  const i64 c = (blockIdx.x % tiles) * 128 + threadIdx.x;
  real total = real(0);
  for (i64 r0 = 0; r0 < rows; r0 += 128) {
    const i64 own = r0 + threadIdx.x;
    matches[threadIdx.x] = own < rows && index[own] == selected;
    __syncthreads();
    const int stop = rows - r0 < 128 ? (int)(rows - r0) : 128;
    if (c < columns)
      for (int r = 0; r < stop; r++)
        if (matches[r]) total += load(a + (r0 + r) * stride + c);
    __syncthreads();
  }
  if (c < columns) store(dst + c * dst_stride + selected, total);
}

// Copy a matrix between any strides, or zeros if src is null: a job of `pack` in rnnx.engines.gpu.codegen.
__device__ __noinline__ void copy_matrix(
    const storage* src, i64 row_from, i64 column_from, storage* dst, i64 row_to, i64 column_to, i64 rows, i64 columns) {
  const i64 all = rows * columns, step = (i64)gridDim.x * blockDim.x;
  for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < all; e += step) {
    const i64 r = e / columns, c = e - r * columns;
    storage* target = dst + r * row_to + c * column_to;
    if (src) *target = src[r * row_from + c * column_from];
    else store(target, real(0));
  }
}
