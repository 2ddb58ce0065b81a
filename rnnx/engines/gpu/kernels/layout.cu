// Copies and sums for gradients: the kernels common to all cells.
// Dimensions: T steps, m examples, n features or units.

// A tile of a copy of arrays (n, m, T): 32 units and 32 steps of one example. See rnnx.engines.gpu.copies.
struct Copy {
  const char* from;
  char* to;
  i64 from_unit, from_example, from_step, to_unit, to_example, to_step;  // bytes
  i64 n, m, n_steps, first_tile;
  const i64* lengths;
  i64 rule;
};

template <typename T> __device__ __forceinline__ void convert(const T* from, T* to) { *to = *from; }
template <typename From, typename To> __device__ __forceinline__ void convert(const From* from, To* to) {
  store(to, load(from));
}
__device__ __forceinline__ void store(i64* p, real x) { *p = (i64)x; }

template <typename From, typename To> __device__ __forceinline__ void copy_tile(const Copy& c, To* tile) {  // (32, 33)
  const i64 tiles = (c.n + 31) / 32, own = blockIdx.x - c.first_tile, rest = own / tiles;
  const i64 u0 = own % tiles * 32, j = rest % c.m, t0 = rest / c.m * 32;
  const i64 length = c.lengths ? c.lengths[j] : c.n_steps;
  if (c.rule && (c.rule == 1) != (length > 0)) return;
  const i64 end = c.rule ? c.n_steps : length;
  const bool read_by_step = c.from_step < c.from_unit, write_by_step = c.to_step < c.to_unit;  // for coalesced access
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    const int dt = read_by_step ? x : y, du = read_by_step ? y : x;
    const i64 t = t0 + dt, u = u0 + du;
    if (t >= c.n_steps || u >= c.n) continue;
    To* element = tile + dt * 33 + du;
    if (c.from && t < end) convert((const From*)(c.from + t * c.from_step + j * c.from_example + u * c.from_unit), element);
    else store(element, real(0));
  }
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    const int dt = write_by_step ? x : y, du = write_by_step ? y : x;
    const i64 t = t0 + dt, u = u0 + du;
    if (t >= c.n_steps || u >= c.n) continue;
    *(To*)(c.to + t * c.to_step + j * c.to_example + u * c.to_unit) = tile[dt * 33 + du];
  }
}

// Copy as the records say, which begin with each other's tiles. A field that is given is the place of a number of the
// call. Blocks of 32 x 8 threads, one per tile.
extern "C" __global__ void copy(const i64* numbers, const i64* records, i64 n_records) {
  RNNX_SHARED(unsigned char, tile);
  i64 low = 0, high = n_records;
  while (high - low > 1) {
    const i64 middle = (low + high) / 2;
    if (records[middle * n_fields + field_first_tile] <= blockIdx.x) low = middle;
    else high = middle;
  }
  const i64* record = records + low * n_fields;
  const i64 given = record[field_given];
  auto field = [&](int k) { return given >> k & 1 ? numbers[record[k]] : record[k]; };
  Copy c;
  c.from_unit = field(field_from_unit), c.from_example = field(field_from_example), c.from_step = field(field_from_step);
  c.to_unit = field(field_to_unit), c.to_example = field(field_to_example), c.to_step = field(field_to_step);
  c.n = record[field_n], c.m = record[field_m], c.n_steps = record[field_n_steps];
  c.first_tile = record[field_first_tile], c.rule = record[field_rule];
  c.lengths = (const i64*)field(field_lengths);
  const i64 from = field(field_from);
  c.from = from ? (const char*)from + record[field_from_first] * c.from_unit : 0;
  c.to = (char*)field(field_to) + record[field_to_first];
  const i64 types = record[field_types];
  if (types == 0) copy_tile<storage, storage>(c, (storage*)tile);
  else if (types == 1) copy_tile<storage, real>(c, (real*)tile);
  else if (types == 2) copy_tile<real, storage>(c, (storage*)tile);
  else copy_tile<i64, i64>(c, (i64*)tile);
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
