// Included by all kernels: number types in memory (`storage`) and in registers (`real`), loads and stores, and the cell
// vocabulary. RNNX_STORAGE and RNNX_REAL are compiler options. Every kernel parameter is a pointer or an i64. Sequences
// are (T, m, n) in C order, matrices row-major.
typedef long long i64;

struct half_bits { unsigned short bits; };      // IEEE binary16
struct bfloat16_bits { unsigned short bits; };  // the upper half of a binary32
typedef RNNX_STORAGE storage;
typedef RNNX_REAL real;  // float for both 16-bit types

__device__ __forceinline__ float load(const float* p) { return *p; }
__device__ __forceinline__ double load(const double* p) { return *p; }
__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(double* p, double x) { *p = x; }
#ifndef RNNX_EMULATED
__device__ __forceinline__ float load(const half_bits* p) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(p->bits));
  return x;
}
__device__ __forceinline__ void store(half_bits* p, float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  p->bits = bits;
}
__device__ __forceinline__ float load(const bfloat16_bits* p) { return __uint_as_float((unsigned)p->bits << 16); }
__device__ __forceinline__ void store(bfloat16_bits* p, float x) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  p->bits = bits;
}
// The dynamic shared memory of a block. A kernel declares it once.
#define RNNX_SHARED(type, name)                                  \
  extern __shared__ __align__(16) unsigned char rnnx_shared[];   \
  type* name = reinterpret_cast<type*>(rnnx_shared)
#endif

__device__ __forceinline__ float op_exp(float x) { return expf(x); }
__device__ __forceinline__ double op_exp(double x) { return exp(x); }
__device__ __forceinline__ float op_tanh(float x) { return tanhf(x); }
__device__ __forceinline__ double op_tanh(double x) { return tanh(x); }
__device__ __forceinline__ real op_sigmoid(real x) {
  // exp of a number <= 0 cannot overflow and keeps small results accurate.
  const real e = op_exp(x < real(0) ? x : -x);
  return (x < real(0) ? e : real(1)) / (real(1) + e);
}
__device__ __forceinline__ real op_relu(real x) { return x < real(0) ? real(0) : x; }  // keeps NaN
__device__ __forceinline__ real op_heaviside(real x) { return x > real(0) ? real(1) : real(0); }
__device__ __forceinline__ float op_log(float x) { return logf(x); }
__device__ __forceinline__ double op_log(double x) { return log(x); }
__device__ __forceinline__ float op_sqrt(float x) { return sqrtf(x); }
__device__ __forceinline__ double op_sqrt(double x) { return sqrt(x); }
__device__ __forceinline__ float op_abs(float x) { return fabsf(x); }
__device__ __forceinline__ double op_abs(double x) { return fabs(x); }
__device__ __forceinline__ float op_floor(float x) { return floorf(x); }
__device__ __forceinline__ double op_floor(double x) { return floor(x); }
__device__ __forceinline__ float op_sin(float x) { return sinf(x); }
__device__ __forceinline__ double op_sin(double x) { return sin(x); }
__device__ __forceinline__ float op_cos(float x) { return cosf(x); }
__device__ __forceinline__ double op_cos(double x) { return cos(x); }
__device__ __forceinline__ float op_erf(float x) { return erff(x); }
__device__ __forceinline__ double op_erf(double x) { return erf(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }
__device__ __forceinline__ float normal_cdf(float x) { return normcdff(x); }
__device__ __forceinline__ double normal_cdf(double x) { return normcdf(x); }
// NaN if either operand is.
__device__ __forceinline__ real op_maximum(real a, real b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ real op_minimum(real a, real b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ real op_sign(real x) {
  return x > real(0) ? real(1) : x < real(0) ? real(-1) : x == real(0) ? real(0) : x;
}
__device__ __forceinline__ real op_softplus(real x) { return op_relu(x) + log1p_of(op_exp(-op_abs(x))); }
__device__ __forceinline__ real op_log_sigmoid(real x) { return -op_softplus(-x); }
__device__ __forceinline__ real op_gelu(real x) {
  const real bounded = x < real(-40) ? real(-40) : x;  // -infinity would give NaN
  return bounded * normal_cdf(bounded);
}
