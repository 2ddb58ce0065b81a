/* The functions that exported models call, one section each: "@name: the sections that it needs". A file gets the
   sections that its model uses. They need no library, and have no branches, so that compilers vectorize their loops.
   The mathematics is that of rnnx/engines/cpu/codegen/vector_math.py, with the same accuracy: 2 ulp. */

@vectors:
/* Constants begin with a cache line, and GCC, from version 8 on, uses vectors as long as the processor's, which it would
   not on its own. */
#if defined(__GNUC__)
#define ALIGNED __attribute__((aligned(64)))
#else
#define ALIGNED
#endif
#if defined(__AVX512F__) && defined(__GNUC__) && __GNUC__ >= 8 && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif

@bits:
static inline uint32_t bits_of(float x) {
  union { float number; uint32_t bits; } both;
  both.number = x;
  return both.bits;
}

static inline float of_bits(uint32_t bits) {
  union { float number; uint32_t bits; } both;
  both.bits = bits;
  return both.number;
}

@magic:
/* Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits. */
static const float MAGIC = 12582912.0f;

@reduce: bits magic
/* x = n ln 2 + r. Return exp(r) - 1 by its Taylor series, and MAGIC + n. */
static inline float exp_minus_1(float x, float *n) {
  const float shifted = x * 1.44269504f + MAGIC, whole = shifted - MAGIC;
  const float r = (x - whole * 0.693145752f) - whole * 1.42860682e-6f;
  float total = r * 1.98412698e-4f + 1.38888889e-3f;
  total = total * r + 8.33333333e-3f;
  total = total * r + 4.16666667e-2f;
  total = total * r + 1.66666667e-1f;
  total = total * r + 0.5f;
  *n = shifted;
  return (total * r) * r + r;
}

static inline float power_of_two(uint32_t n) { return of_bits((n + 127u) << 23); }

@exp_clamped: reduce
/* exp(x) for x from -104 to 104: 2^n in two factors, because it may underflow or overflow. */
static inline float exp_clamped(float x) {
  float n;
  const float p = exp_minus_1(x, &n) + 1.0f;
  const uint32_t above = bits_of(n) - 0x4B400000u + 512u, half = above >> 1; /* n + 512 */
  return p * power_of_two(half - 256u) * power_of_two(above - half - 256u);
}

@exp: exp_clamped
static inline float op_exp(float x) {
  const float low = x < -104.0f ? -104.0f : x;
  return exp_clamped(low > 104.0f ? 104.0f : low);
}

@abs: bits
static inline float op_abs(float x) { return of_bits(bits_of(x) & 0x7FFFFFFFu); }

@copy_sign: bits
static inline float copy_sign(float x, float sign) {
  return of_bits((bits_of(x) & 0x7FFFFFFFu) | (bits_of(sign) & 0x80000000u));
}

@tanh: reduce abs copy_sign
/* With e = exp(2 |x|) - 1, e / (e + 2), corrected by the rounding error of e + 2. */
static inline float op_tanh(float x) {
  const float size = op_abs(x), a = size > 10.0f ? 10.0f : size;
  float n;
  const float p = exp_minus_1(a + a, &n), scale = power_of_two(bits_of(n));
  const float e = scale * p + (scale - 1.0f), d = e + 2.0f, q = e / d, back = d - e;
  const float lost = (e - (d - back)) + (2.0f - back);
  return copy_sign(q - (q * lost) * (0.5f - 0.5f * q), x);
}

@sigmoid: exp_clamped abs
/* With e = exp(-|x|), 1 / (1 + e) or e / (1 + e), corrected by the rounding error of 1 + e. */
static inline float op_sigmoid(float x) {
  const float size = op_abs(x), a = size > 104.0f ? 104.0f : size;
  const float e = exp_clamped(-a), d = 1.0f + e, q = (x < 0.0f ? e : 1.0f) / d, lost = e - (d - 1.0f);
  return q - (q * lost) * (1.5f - 0.5f * d);
}

@relu:
static inline float op_relu(float x) { return x < 0.0f ? 0.0f : x; }

@heaviside:
static inline float op_heaviside(float x) { return x > 0.0f ? 1.0f : 0.0f; }

@sign:
static inline float op_sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? 0.0f : x; }

@floor: abs copy_sign
static inline float op_floor(float x) {
  const float size = op_abs(x), nearest = copy_sign(size + 8388608.0f - 8388608.0f, x), down = nearest - 1.0f;
  return size < 8388608.0f ? (nearest > x ? copy_sign(down, x) : nearest) : x;
}

@maximum:
static inline float op_maximum(float a, float b) { return a > b || a != a ? a : b; }

@minimum:
static inline float op_minimum(float a, float b) { return a < b || a != a ? a : b; }

@greater:
static inline int op_greater(float a, float b) { return a > b; }

@where:
static inline float op_where(int condition, float a, float b) { return condition ? a : b; }

@special: bits
static inline float infinity(void) { return of_bits(0x7F800000u); }
static inline float not_a_number(void) { return of_bits(0x7FC00000u); }

@log_of_scaled:
/* log((1 + f) 2^e), for an exact f from -0.3 to 0.5, by a series in f / (2 + f). */
static inline float log_of_scaled(float f, float e) {
  const float s = f / (f + 2.0f), half = 0.5f * f * f, w = s * s;
  float total = w * 0.153846154f + 0.181818182f;
  total = total * w + 0.222222222f;
  total = total * w + 0.285714286f;
  total = total * w + 0.4f;
  total = total * w + 0.666666667f;
  return e * 0.693145752f - ((half - (s * (half + w * total) + e * 1.42860682e-6f)) - f);
}

@log: bits magic special log_of_scaled
static inline float op_log(float x) {
  const int subnormal = x < 1.17549435e-38f;
  const uint32_t bits = bits_of(subnormal ? x * 16777216.0f : x), root = 0x3F3504F3u; /* of sqrt(1/2) */
  const uint32_t n = (bits + 0x40000000u - root) >> 23; /* x = (1 + f) 2^(n - 128), sqrt(1/2) <= 1 + f < sqrt(2) */
  const float e = of_bits(0x4B400000u + n) - MAGIC - 128.0f;
  const float f = of_bits(bits - ((n - 128u) << 23)) - 1.0f;
  const float y = log_of_scaled(f, e - (subnormal ? 24.0f : 0.0f));
  const float others = x == 0.0f ? -infinity() : x > 0.0f ? infinity() : not_a_number();
  return x > 0.0f && x < infinity() ? y : others;
}

@softplus: exp_clamped abs relu log_of_scaled
/* max(x, 0) + log(1 + exp(-|x|)) */
static inline float op_softplus(float x) {
  const float size = op_abs(x), e = exp_clamped(size > 104.0f ? -104.0f : -size);
  const int large = e > 0.5f;
  return op_relu(x) + log_of_scaled(large ? 0.5f * e - 0.5f : e, large ? 1.0f : 0.0f);
}

@log_sigmoid: softplus
static inline float op_log_sigmoid(float x) { return -op_softplus(-x); }

@bits_of_double:
static inline double double_of_bits(uint64_t bits) {
  union { double number; uint64_t bits; } both;
  both.bits = bits;
  return both.number;
}

static inline uint64_t bits_of_double(double x) {
  union { double number; uint64_t bits; } both;
  both.number = x;
  return both.bits;
}

@sqrt: bits_of_double special
/* x / sqrt(x), by Newton's method in double precision. */
static inline float op_sqrt(float x) {
  const double a = x;
  double y = double_of_bits(0x5FE6EB50C7B537A9u - (bits_of_double(a) >> 1));
  y = y * (1.5 - 0.5 * a * y * y);
  y = y * (1.5 - 0.5 * a * y * y);
  y = y * (1.5 - 0.5 * a * y * y);
  y = y * (1.5 - 0.5 * a * y * y);
  return x < 0.0f ? not_a_number() : x < infinity() ? (float)(a * y) : x;
}

@circle: bits abs bits_of_double
/* Bits of 1 / (2 pi), after 32 zeros. */
static const uint32_t INVERSE[] = {0u, $INVERSE};

/* Return r and n with x = r + n pi / 2, |r| <= pi / 4, for finite x >= 0. */
static inline double reduced(float x, uint32_t *n) {
  if (x < 65536.0f) {
    const double magic = 6755399441055744.0, shifted = x * 0.63661977236758134 + magic, whole = shifted - magic;
    *n = (uint32_t)bits_of_double(shifted);
    return (x - whole * 1.57079632673412561) - whole * 6.07710050650619225e-11;
  } else { /* Payne and Hanek: the product with those bits that matter */
    const uint32_t mantissa = (bits_of(x) & 0x7FFFFFu) | 0x800000u, shift = (bits_of(x) >> 23) - 118u;
    const uint32_t *words = INVERSE + (shift >> 5), s = shift & 31u;
    const uint64_t first = ((uint64_t)words[0] << 32 | words[1]) << s >> 32;
    const uint64_t second = ((uint64_t)words[1] << 32 | words[2]) << s >> 32;
    const uint64_t third = ((uint64_t)words[2] << 32 | words[3]) << s >> 32;
    const uint64_t low = mantissa * third, middle = mantissa * second + (low >> 32);
    const uint64_t turns = ((mantissa * (first & 0xFFFFFFFFu)) << 32) + middle; /* in 2^-64 */
    const uint64_t quarters = turns + 0x2000000000000000u, rest = turns - (quarters & 0xC000000000000000u);
    const double size = rest >> 63 ? -(double)(~rest + 1u) : (double)rest;
    *n = (uint32_t)(quarters >> 62);
    return size * 3.40612158008655459e-19; /* 2 pi / 2^64 */
  }
}

static inline double sine(double r) {
  const double w = r * r;
  double total = w * 1.60590438368216133e-10 - 2.50521083854417202e-8;
  total = total * w + 2.75573192239858883e-6;
  total = total * w - 1.98412698412698413e-4;
  total = total * w + 8.33333333333333322e-3;
  total = total * w - 0.166666666666666657;
  return total * w * r + r;
}

static inline double cosine(double r) {
  const double w = r * r;
  double total = w * -1.14707455977297245e-11 + 2.08767569878681002e-9;
  total = total * w - 2.75573192239858883e-7;
  total = total * w + 2.48015873015873016e-5;
  total = total * w - 1.38888888888888894e-3;
  total = total * w + 4.16666666666666644e-2;
  return total * w * w - 0.5 * w + 1.0;
}

/* The sine of x >= 0 plus some quarters of a turn. */
static inline float sine_of(float x, uint32_t quarters) {
  uint32_t n;
  const double r = reduced(x, &n);
  const double y = (n + quarters) & 1u ? cosine(r) : sine(r);
  return (float)((n + quarters) & 2u ? -y : y);
}

@sin: circle copy_sign special
static inline float op_sin(float x) {
  const float size = op_abs(x);
  const float y = size < infinity() ? sine_of(size, 0u) : not_a_number();
  return x < 0.0f ? -y : size == 0.0f ? x : y;
}

@cos: circle special
static inline float op_cos(float x) {
  const float size = op_abs(x);
  return size < infinity() ? sine_of(size, 1u) : not_a_number();
}

@normal: bits_of_double
/* exp(x) for x from -700 to 0 */
static inline double exp_of_double(double x) {
  const double magic = 6755399441055744.0, shifted = x * 1.44269504088896339 + magic, n = shifted - magic;
  const double r = (x - n * 0.693147180369123816) - n * 1.90821492927058770e-10;
  double total = 1.0, k;
  for (k = 13.0; k > 0.5; k -= 1.0) total = 1.0 + total * r / k;
  return total * double_of_bits((bits_of_double(shifted) + 1023u) << 52);
}

/* The probability that a standard normal number is above y, for y from 0 to 37: see rnnx/cells/gaussian.py. */
static inline double upper_tail(double y) {
  static const double series[] = {$F};
  const double q = (y - 5.0) / (y + 5.0);
  double total = 0.0;
  int k;
  for (k = $F_LAST; k >= 0; --k) total = total * q + series[k];
  return exp_of_double(-0.5 * y * y) * total / (1.0 + 0.75 * y);
}

@erf: normal
static inline float op_erf(float x) {
  static const double series[] = {$TAYLOR};
  const double size = x < 0.0f ? -(double)x : (double)x, a = size > 6.0 ? 6.0 : size, w = a * a;
  double total = 0.0, y;
  int k;
  if (x != x || x == 0.0f) return x;
  for (k = $TAYLOR_LAST; k >= 0; --k) total = total * w + series[k];
  y = a < 1.0 ? a * total : 1.0 - 2.0 * upper_tail(a * 1.41421356237309515);
  return (float)(x < 0.0f ? -y : y);
}

@gelu: normal
static inline float op_gelu(float x) {
  const double size = x < 0.0f ? -(double)x : (double)x, a = size > 37.0 ? 37.0 : size, below = a * upper_tail(a);
  return x != x || x == 0.0f ? x : (float)(x > 0.0f ? (double)x - below : -below);
}

@mean:
static float op_mean(const float *restrict x, int n) {
  float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  int i, k = 0;
  for (; k + 8 <= n; k += 8)
    for (i = 0; i < 8; ++i) sums[i] += x[k + i];
  for (i = 0; k < n; ++k, ++i) sums[i] += x[k];
  return (((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))) / (float)n;
}

@opaque:
/* Hides from the compiler where a pointer points. GCC 12 makes wrong vectors of constants such as eight ones and eight
   zeros for AVX-512, and new biases and identity matrices are such constants. */
#if defined(__GNUC__) && !defined(__clang__)
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))
#else
#define OPAQUE(pointer) (void)(pointer)
#endif

@start: opaque
/* Set y to the biases. */
static inline void start(float *restrict y, const float *restrict biases, int n) {
  int u;
  OPAQUE(biases);
  for (u = 0; u < n; ++u) y[u] = biases[u];
}

@product: opaque
/* Add W x to y. W is stored in panels of 32, 16, 8 and 4 rows, each column by column, and then row by row. */
static inline const float *panel(const float *restrict w, const float *restrict x, float *restrict y, int rows,
                                 int columns) {
  int k = 0, r;
  for (; k + 4 <= columns; k += 4, w += 4 * rows) {
    const float x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
    for (r = 0; r < rows; ++r) y[r] += w[r] * x0 + w[rows + r] * x1 + w[2 * rows + r] * x2 + w[3 * rows + r] * x3;
  }
  for (; k < columns; ++k, w += rows)
    for (r = 0; r < rows; ++r) y[r] += w[r] * x[k];
  return w;
}

static inline float dot(const float *restrict w, const float *restrict x, int n) {
  float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, rest = 0.0f;
  int i, k = 0;
  for (; k + 8 <= n; k += 8)
    for (i = 0; i < 8; ++i) sums[i] += w[k + i] * x[k + i];
  for (; k < n; ++k) rest += w[k] * x[k];
  return rest + ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

static void add_product(const float *w, const float *x, float *y, int rows, int columns) {
  OPAQUE(w);
  for (; rows >= 32; rows -= 32, y += 32) w = panel(w, x, y, 32, columns);
  for (; rows >= 16; rows -= 16, y += 16) w = panel(w, x, y, 16, columns);
  for (; rows >= 8; rows -= 8, y += 8) w = panel(w, x, y, 8, columns);
  for (; rows >= 4; rows -= 4, y += 4) w = panel(w, x, y, 4, columns);
  for (; rows > 0; --rows, ++y, w += columns) *y += dot(w, x, columns);
}

@product_int8: opaque
/* Add W x to y. W is stored as for float32, but as integers, to be multiplied by the scales of their rows. */
static inline const int8_t *panel_int8(const int8_t *restrict w, const float *restrict scales, const float *restrict x,
                                       float *restrict y, int rows, int columns) {
  float sums[32];
  int k = 0, r;
  for (r = 0; r < rows; ++r) sums[r] = 0.0f;
  for (; k + 4 <= columns; k += 4, w += 4 * rows) {
    const float x0 = x[k], x1 = x[k + 1], x2 = x[k + 2], x3 = x[k + 3];
    for (r = 0; r < rows; ++r)
      sums[r] += (float)w[r] * x0 + (float)w[rows + r] * x1 + (float)w[2 * rows + r] * x2 + (float)w[3 * rows + r] * x3;
  }
  for (; k < columns; ++k, w += rows)
    for (r = 0; r < rows; ++r) sums[r] += (float)w[r] * x[k];
  for (r = 0; r < rows; ++r) y[r] += scales[r] * sums[r];
  return w;
}

static void add_product_int8(const int8_t *w, const float *scales, const float *x, float *y, int rows, int columns) {
  OPAQUE(w);
  OPAQUE(scales);
  for (; rows >= 32; rows -= 32, y += 32, scales += 32) w = panel_int8(w, scales, x, y, 32, columns);
  for (; rows >= 16; rows -= 16, y += 16, scales += 16) w = panel_int8(w, scales, x, y, 16, columns);
  for (; rows >= 8; rows -= 8, y += 8, scales += 8) w = panel_int8(w, scales, x, y, 8, columns);
  for (; rows >= 4; rows -= 4, y += 4, scales += 4) w = panel_int8(w, scales, x, y, 4, columns);
  for (; rows > 0; --rows, ++y, ++scales) w = panel_int8(w, scales, x, y, 1, columns);
}
