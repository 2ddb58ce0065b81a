"""The cell vocabulary on vectors, without branches.

The C library's scalar functions would cost more than the matrix products of a small LSTM. Everything is built on

    exp(x) = 2^n exp(r),    n = round(x / ln 2),    |r| <= ln 2 / 2

with exp(r) - 1 by its Taylor series and 2^n composed from its bits. Rounding x / ln 2 + 1.5 * 2^mantissa leaves n as
an integer in the low bits. r is reduced with ln 2 in two parts (Cody and Waite), the first short enough for its product
with n to be exact. AVX-512 multiplies by 2^n in one instruction.

Maximum error over the whole range, measured by tests/test_vector_math.py: 2 ulp for float32, 4 for float64. NaN stays
NaN; infinities give the limits.
"""

import math
from typing import Any

import numpy as np

from rnnx.cells.vocabulary import Ops
from rnnx.engines.cpu.codegen.vectors import Vector


def make_ops(dtype: Any) -> Ops:
    """Return the cell vocabulary on vectors of float32 or float64."""
    single = np.dtype(dtype) == np.float32
    mantissa, bias = (23, 127) if single else (52, 1023)
    coefficients = [1 / math.factorial(k + 2) for k in range(6 if single else 12)]
    magic = 1.5 * 2.0**mantissa
    inv_ln2 = 1 / math.log(2)
    # ln 2 truncated to 15 (32) bits, and the remainder, ln 2 - 22713 / 2^15 (ln 2 - 2977044471 / 2^32).
    ln2_high = 22713 / 2**15 if single else 2977044471 / 2**32
    ln2_low = 1.4286068203094172e-06 if single else 1.9082149292705877e-10
    tanh_limit = 10 if single else 20  # tanh rounds to 1 from here on
    exp_limit = 104 if single else 746  # exp(-limit) is 0, exp(limit) infinite

    def taylor(r: Vector) -> Vector:
        """Sum of r^k / (k + 2)!, so that exp(r) = 1 + r + r^2 * sum (Horner)."""
        total = r * coefficients[-1] + coefficients[-2]
        for coefficient in reversed(coefficients[:-2]):
            total = total * r + coefficient
        return total

    def reduce(x: Vector) -> tuple[Vector, Vector]:
        """Return n and exp(r) - 1."""
        n = (x * inv_ln2 + magic) - magic
        r = (x - n * ln2_high) - n * ln2_low
        return n, (taylor(r) * r) * r + r

    def power_of_two(n: Vector) -> Vector:
        """Return 2^n for integral n within the exponent range of normal numbers."""
        if n.function.has_scale:
            return Vector(n.function, n.function.constant(1)).scale(n)
        return ((integer(n) + bias) << mantissa).as_real()

    def integer(n: Vector) -> Vector:
        magic_bits = Vector(n.function, n.function.constant(magic)).as_integer()
        return (n + magic).as_integer() - magic_bits

    def exp_clamped(x: Vector) -> Vector:
        n, p = reduce(x)
        if n.function.has_scale:
            return (p + 1).scale(n)
        whole = integer(n)
        half = whole >> 1  # two factors, because 2^n may underflow or overflow
        rest = whole - half
        return ((p + 1) * ((half + bias) << mantissa).as_real()) * ((rest + bias) << mantissa).as_real()

    def exp(x: Vector) -> Vector:
        low = x.where("<", -exp_limit, -exp_limit, x)
        return exp_clamped(low.where(">", exp_limit, exp_limit, low))

    def tanh(x: Vector) -> Vector:
        a = abs(x)
        a = a.where(">", tanh_limit, tanh_limit, a)  # NaN passes through
        n, p = reduce(a + a)
        scale = power_of_two(n)
        e = scale * p + (scale - 1)  # exp(2a) - 1, accurate for small a too
        d = e + 2
        q = e / d
        if single:  # float32 has no spare bits: correct the rounding error of d
            back = d - e
            lost = (e - (d - back)) + (2 - back)
            q = q - (q * lost) * (0.5 - 0.5 * q)
        return q.copysign(x)

    def sigmoid(x: Vector) -> Vector:
        a = abs(x)
        a = a.where(">", exp_limit, exp_limit, a)
        e = exp_clamped(-a)
        d = 1 + e
        q = x.where("<", 0, e, 1) / d
        if single:
            lost = e - (d - 1)
            q = q - (q * lost) * (1.5 - 0.5 * d)  # approximates 1 / d
        return q

    return Ops(
        tanh,
        sigmoid,
        relu=lambda x: x.where("<", 0, 0, x),
        heaviside=lambda x: x.where(">", 0, 1, 0),
        exp=exp,
        zeros_like=lambda x: Vector(x.function, x.function.constant(0)),
    )
