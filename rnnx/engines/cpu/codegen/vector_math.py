"""The cell vocabulary on vectors, without branches.

The C library's scalar functions would cost more than the matrix products of a small LSTM. Everything is built on

    exp(x) = 2^n exp(r),    n = round(x / ln 2),    |r| <= ln 2 / 2

with exp(r) - 1 by its Taylor series and 2^n composed from its bits. Rounding x / ln 2 + 1.5 * 2^mantissa leaves n as
an integer in the low bits. r is reduced with ln 2 in two parts (Cody and Waite), the first short enough for its product
with n to be exact. AVX-512 multiplies by 2^n in one instruction.

log and softplus share a series for log(1 + f) with an exact f. sin and cos (in `trigonometry`), erf and gelu (in
`rnnx.cells.gaussian`) are computed in float64, also for float32.

Maximum error over the whole range, measured by tests/test_vector_math.py: 2 ulp for float32, 4 for float64 (gelu: 5).
NaN stays NaN; infinities give the limits, for sin and cos NaN.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rnnx.cells import gaussian
from rnnx.cells.vocabulary import Ops
from rnnx.engines.cpu.codegen.trigonometry import Trigonometry
from rnnx.engines.cpu.codegen.vectors import Vector, greater, horner, lifted, select


def make_ops(dtype: Any) -> Ops:
    """Return the cell vocabulary on vectors of float32 or float64."""
    single = bool(np.dtype(dtype) == np.float32)
    vectors, circle = _VectorMath(single), Trigonometry(7 if single else 10)

    def in_double(function: Callable[[Vector], Vector]) -> Callable[[Vector], Vector]:
        return (lambda x: function(x.widened()).narrowed(x.function)) if single else function

    def of_normal(function: Callable[..., Vector]) -> Callable[[Vector], Vector]:
        return in_double(lambda x: function(make_ops(np.float64), x, gaussian.SPLIT[64]))

    return Ops(
        tanh=vectors.tanh,
        sigmoid=vectors.sigmoid,
        relu=_relu,
        heaviside=lambda x: x.where(">", 0, 1, 0),
        exp=vectors.exp,
        zeros_like=lambda x: _constant(0, x),
        log=vectors.log,
        sqrt=Vector.sqrt,
        abs=abs,
        sign=lambda x: x.where(">", 0, 1, x.where("<", 0, -1, x.where("==", 0, 0, x))),
        floor=vectors.floor,
        sin=in_double(circle.sin),
        cos=in_double(circle.cos),
        softplus=vectors.softplus,
        log_sigmoid=lambda x: -vectors.softplus(-x),
        erf=of_normal(gaussian.erf),
        gelu=of_normal(gaussian.gelu),
        mean=_mean,
        maximum=partial(_extreme, ">"),
        minimum=partial(_extreme, "<"),
        greater=greater,
        where=select,
        constant=_constant,
    )


def _mean(x: Vector) -> Vector:
    raise TypeError("`mean` needs a whole row: see `rnnx.engines.cpu.codegen.rows`")


def _relu(x: Vector) -> Vector:
    return x.where("<", 0, 0, x)  # keeps NaN


def _constant(value: float, like: Vector) -> Vector:
    return Vector(like.function, like.function.constant(value))


def _extreme(comparison: str, a: Any, b: Any) -> Vector:
    """Return the operand that compares with the other as stated; NaN if either operand is."""
    a, b = lifted(a, b)
    return a.where("==", a, a.where(comparison, b, a, b), a)


class _VectorMath:
    """exp, tanh and sigmoid on vectors of float32 (`single`) or float64."""

    def __init__(self, single: bool) -> None:
        self.single = single
        self.mantissa, self.bias = (23, 127) if single else (52, 1023)
        self.coefficients = [1 / math.factorial(k + 2) for k in range(6 if single else 12)]
        self.magic = 1.5 * 2.0**self.mantissa
        # ln 2 truncated to 15 (32) bits, and the remainder, ln 2 - 22713 / 2^15 (ln 2 - 2977044471 / 2^32).
        self.ln2_high = 22713 / 2**15 if single else 2977044471 / 2**32
        self.ln2_low = 1.4286068203094172e-06 if single else 1.9082149292705877e-10
        self.tanh_limit = 10 if single else 20  # tanh rounds to 1 from here on
        self.exp_limit = 104 if single else 746  # exp(-limit) is 0, exp(limit) infinite
        self.logarithms = [2 / (2 * k + 1) for k in range(1, 7 if single else 13)]
        self.smallest = float(np.finfo(np.float32 if single else np.float64).smallest_normal)

    def reduce(self, x: Vector) -> tuple[Vector, Vector]:
        """Return n and exp(r) - 1, which is r + r^2 * sum of r^k / (k + 2)!, with short chains of operations."""
        n = (x * (1 / math.log(2)) + self.magic) - self.magic
        r = (x - n * self.ln2_high) - n * self.ln2_low
        square, odd = r * r, iter(self.coefficients)
        pairs = [r * b + a for a, b in zip(odd, odd, strict=True)]
        return n, horner(pairs, square) * square + r

    def integer(self, n: Vector) -> Vector:
        magic_bits = Vector(n.function, n.function.constant(self.magic)).as_integer()
        return (n + self.magic).as_integer() - magic_bits

    def power_of_two(self, n: Vector) -> Vector:
        """Return 2^n for integers n within the exponent range of normal numbers."""
        return ((n + self.bias) << self.mantissa).as_real()

    def exp_clamped(self, x: Vector) -> Vector:
        n, p = self.reduce(x)
        if n.function.has_avx512:
            return (p + 1).scale(n)
        whole = self.integer(n)
        half = whole >> 1  # two factors, because 2^n may underflow or overflow
        rest = whole - half
        return ((p + 1) * self.power_of_two(half)) * self.power_of_two(rest)

    def floor(self, x: Vector) -> Vector:
        """Return the largest integer that is not above x. Above 2^mantissa, all numbers are integers."""
        limit = float(2**self.mantissa)
        nearest = (abs(x) + limit - limit).copysign(x)
        down = nearest - _constant(1, x)
        return select(greater(limit, abs(x)), select(greater(nearest, x), down, nearest), x)

    def exp(self, x: Vector) -> Vector:
        low = x.where("<", -self.exp_limit, -self.exp_limit, x)
        return self.exp_clamped(low.where(">", self.exp_limit, self.exp_limit, low))

    def tanh(self, x: Vector) -> Vector:
        a = abs(x)
        a = a.where(">", self.tanh_limit, self.tanh_limit, a)  # NaN passes through
        n, p = self.reduce(a + a)
        one = Vector(n.function, n.function.constant(1))
        scale = one.scale(n) if n.function.has_avx512 else self.power_of_two(self.integer(n))
        e = scale * p + (scale - 1)  # exp(2a) - 1, accurate for small a too
        return self.ratio(e, e, 2).copysign(x)

    def sigmoid(self, x: Vector) -> Vector:
        a = abs(x)
        a = a.where(">", self.exp_limit, self.exp_limit, a)
        e = self.exp_clamped(-a)
        return self.ratio(x.where("<", 0, e, 1), e, 1)

    def ratio(self, n: Vector, e: Vector, one: int) -> Vector:
        """Return n / (e + one), with `one` 1 or 2. float32 has no spare bits for the rounding error of the sum, so the
        quotient is corrected; an estimate of the reciprocal is then enough, and faster than a division.
        """
        d = e + one
        if not self.single:
            return n / d
        inverse = d.estimated_reciprocal() if d.function.has_avx512 else 1 / d
        error = (1 - one * inverse) - e * inverse
        q = n * inverse
        return q + q * error

    def log_of_scaled(self, f: Vector, e: Vector) -> Vector:
        """Return log((1 + f) 2^e), for f from -0.3 to 0.5.

        log(1 + f) = f - f^2 / 2 + s (f^2 / 2 + R) with s = f / (2 + f) and R = 2 s^2 / 3 + 2 s^4 / 5 + ...: where f is
        exact, only the smaller terms have errors.
        """
        s = f / (f + 2)
        half, w = 0.5 * f * f, s * s
        correction = s * (half + w * horner(self.logarithms, w)) + e * self.ln2_low
        return e * self.ln2_high - ((half - correction) - f)

    def log(self, x: Vector) -> Vector:
        up = self.mantissa + 1
        bits = x.where("<", self.smallest, x * 2.0**up, x).as_integer()  # subnormal numbers become normal
        root = _constant(math.sqrt(0.5), x).as_integer()
        n = (bits - root) >> self.mantissa  # x = (1 + f) 2^n with sqrt(1/2) <= 1 + f < sqrt(2)
        magic = _constant(self.magic, x)
        e = (n + magic.as_integer()).as_real() - magic
        y = self.log_of_scaled((bits - (n << self.mantissa)).as_real() - 1, e - x.where("<", self.smallest, up, 0))
        y = x.where(">", 0, y, x.where("==", 0, -math.inf, math.nan))
        return x.where("<", math.inf, y, x)

    def softplus(self, x: Vector) -> Vector:
        """Return max(x, 0) + log(1 + e) with e = exp(-|x|)."""
        a = abs(x)
        e = self.exp_clamped(-a.where(">", self.exp_limit, self.exp_limit, a))
        f = e.where(">", 0.5, 0.5 * e - 0.5, e)  # exact: 1 + e = (1 + f) 2^(0 or 1)
        return _relu(x) + self.log_of_scaled(f, e.where(">", 0.5, 1, 0))
