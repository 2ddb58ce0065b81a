// For kernels with one block per example: sums over its units. RNNX_PARTS is defined before it is included.

// Add up the sums of all threads of a block; every thread gets the results. The order of the terms depends on the
// number of threads only, which is a multiple of RNNX_PARTS. `shared` has room for N (blockDim.x + RNNX_PARTS) numbers,
// and may be used again after another call.
template <int N> __device__ __forceinline__ void add_up(real (&sums)[N], real* shared) {
  real* parts = shared + N * blockDim.x;
#pragma unroll
  for (int k = 0; k < N; k++) shared[k * blockDim.x + threadIdx.x] = sums[k];
  __syncthreads();
  for (unsigned a = threadIdx.x; a < N * RNNX_PARTS; a += blockDim.x) {
    const real* terms = shared + a / RNNX_PARTS * blockDim.x + a % RNNX_PARTS;
    real sum = 0;
    for (unsigned i = 0; i < blockDim.x; i += RNNX_PARTS) sum += terms[i];
    parts[a] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; k++) {
    sums[k] = 0;
#pragma unroll
    for (int i = 0; i < RNNX_PARTS; i++) sums[k] += parts[k * RNNX_PARTS + i];
  }
}
