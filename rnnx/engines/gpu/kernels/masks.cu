// The masks of dropout and zoneout, bit for bit those of NumPy's Philox generator: `rnnx.models.masks.Masks.kept`.
typedef unsigned long long u64;

// The 64-bit words of a block of Philox 4x64 with 10 rounds (J. K. Salmon et al., SC 2011).
__device__ __forceinline__ void philox(u64 (&x)[4], u64 key0, u64 key1) {
  for (int round = 0; round < 10; round++) {
    const u64 m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull;
    const u64 high0 = __umul64hi(m0, x[0]), low0 = m0 * x[0], high1 = __umul64hi(m1, x[2]), low1 = m1 * x[2];
    x[0] = high1 ^ x[1] ^ key0;
    x[1] = low1;
    x[2] = high0 ^ x[3] ^ key1;
    x[3] = low0;
    key0 += 0x9E3779B97F4A7C15ull;
    key1 += 0xBB67AE8584CAA73Bull;
  }
}

// Write a number, whose bits in float64 are `value`, to dst (n_steps, size) where a random number of 24 bits is at least
// `least`, else 0. Step t has the counter (., 0, 0, start + t). A thread writes the 8 numbers of a block, the lower halves
// of its words first; blockIdx.y counts steps, in a grid-stride loop.
extern "C" __global__ void keep(const i64* key, i64 start, i64 least, i64 value, storage* dst, i64 n_steps, i64 size) {
  const i64 block = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (8 * block >= size) return;
  union { i64 bits; double number; } kept = {value};
  for (i64 t = blockIdx.y; t < n_steps; t += gridDim.y) {
    u64 x[4] = {(u64)block + 1, 0, 0, (u64)(start + t)};
    philox(x, (u64)key[0], (u64)key[1]);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const i64 number = (i64)((x[i / 2] >> (i % 2 ? 40 : 8)) & 0xFFFFFF);
      if (8 * block + i < size) store(dst + t * size + 8 * block + i, number >= least ? real(kept.number) : real(0));
    }
  }
}
