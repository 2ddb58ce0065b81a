"""tanh, sigmoid and the rest of the cell vocabulary as scalar functions that LLVM can vectorise.

Numba compiles ``np.tanh`` and ``np.exp`` to calls of the scalar C library, which cost more than the matrix
products of a small LSTM. These are branch-free instead: everything is built on

    exp(x) = 2^n exp(r),    n = round(x / ln 2),    |r| <= ln 2 / 2

with exp(r) - 1 by its Taylor series and 2^n put together from its bits. n comes out of the rounding of
x / ln 2 + 1.5 * 2^mantissa, whose low bits are then n as an integer; r is taken in two parts of ln 2 (Cody
and Waite), the first short enough for n times it to be exact.

Errors against the true value over the whole range, measured by tests/test_jit_math.py: at most 2 units in
the last place (ulp) for float32, 4 for float64. NaN stays NaN, infinities give the limits.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from rnnx._ops import Ops

# "contract" lets a product and a sum become one fused instruction, and nothing else: NaN and infinities keep
# their meaning. The NumPy error model keeps the test for division by zero out of the loop.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}


def inline(function: Callable[..., Any]) -> Any:
    """Compile a function so that its body stands in the loop that calls it; else the loop is not vectorised."""
    return njit(function, inline="always", **OPTIONS)


def _reinterpret(target: dict[Any, Any]) -> Any:
    """A function that reads the bits of a number as one of another type of the same size."""

    @intrinsic
    def reinterpret(typingctx, x):
        to = target[x]

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(to))

        return to(x), codegen

    return reinterpret


_as_int = _reinterpret({types.float32: types.int32, types.float64: types.int64})
_as_float = _reinterpret({types.int32: types.float32, types.int64: types.float64})


def _taylor_exp(dtype: type, degree: int) -> Any:
    """Sum of r^k / (k + 2)! for k = 0 ... degree, so that exp(r) = 1 + r + r^2 * sum, unrolled (Horner)."""
    coefficients = {f"c{k}": dtype(1 / math.factorial(k + 2)) for k in range(degree + 1)}
    expression = f"c{degree}"
    for k in range(degree - 1, -1, -1):
        expression = f"({expression}) * r + c{k}"
    scope: dict[str, Any] = dict(coefficients)
    exec(f"def taylor(r):\n    return {expression}", scope)
    return inline(scope["taylor"])


def make_ops(dtype: type) -> Ops:
    """The cell vocabulary on scalars of one dtype, np.float32 or np.float64."""
    single = dtype is np.float32
    integer = np.int32 if single else np.int64
    mantissa = 23 if single else 52
    shift, bias, one_bit = integer(mantissa), integer(127 if single else 1023), integer(1)
    taylor = _taylor_exp(dtype, 6 if single else 11)
    zero, half, one, two, one_and_half = (dtype(v) for v in (0, 0.5, 1, 2, 1.5))
    magic = dtype(1.5 * 2.0**mantissa)
    inv_ln2 = dtype(1 / math.log(2))
    # ln 2 cut after 15 (32) bits, and the rest, which is ln 2 - 22713 / 2^15 (ln 2 - 2977044471 / 2^32).
    ln2_high = dtype(22713 / 2**15) if single else dtype(2977044471 / 2**32)
    ln2_low = dtype(1.4286068203094172e-06) if single else dtype(1.9082149292705877e-10)
    tanh_limit = dtype(10 if single else 20)  # tanh of this is 1 in this dtype
    exp_limit = dtype(104 if single else 746)  # exp of minus this is 0, of this infinite

    @inline
    def reduce(x):
        """N as an integer, and exp(r) - 1."""
        rounded = x * inv_ln2 + magic
        n = rounded - magic
        r = (x - n * ln2_high) - n * ln2_low
        return integer(_as_int(rounded) - _as_int(magic)), (taylor(r) * r) * r + r

    @inline
    def power_of_two(n):
        return _as_float(integer(integer(n + bias) << shift))

    @inline
    def exp_clamped(x):
        n, p = reduce(x)
        n1 = integer(n >> one_bit)  # in two factors: 2^n itself may be too small or too large for the dtype
        return ((p + one) * power_of_two(n1)) * power_of_two(integer(n - n1))

    @inline
    def exp(x):
        low = -exp_limit if x < -exp_limit else x
        return exp_clamped(exp_limit if low > exp_limit else low)

    @inline
    def tanh(x):
        a = abs(x)
        a = tanh_limit if a > tanh_limit else a  # written so that NaN passes
        n, p = reduce(a + a)
        scale = power_of_two(n)
        e = scale * p + (scale - one)  # exp(2a) - 1, exact to the last bits also for small a
        d = e + two
        q = e / d
        if single:  # float32 has no bits to spare: take back the rounding error of d
            back = d - e
            lost = (e - (d - back)) + (two - back)
            q = q - (q * lost) * (half - half * q)
        return math.copysign(q, x)

    @inline
    def sigmoid(x):
        a = abs(x)
        a = exp_limit if a > exp_limit else a
        e = exp_clamped(-a)
        d = one + e
        q = (e if x < zero else one) / d
        if single:
            lost = e - (d - one)
            q = q - (q * lost) * (one_and_half - half * d)  # 1 / d, close enough for a correction
        return q

    @inline
    def relu(x):
        return zero if x < zero else x

    @inline
    def heaviside(x):
        return one if x > zero else zero

    @inline
    def zeros_like(x):
        return zero

    return Ops(tanh, sigmoid, relu, heaviside, exp, zeros_like)
