"""The error function and the Gaussian error linear unit, for libraries and vectors that lack them.

Both need Q(y) = (1 - erf(y / sqrt(2))) / 2, the probability that a standard normal number is above y >= 0:

- Q(y) = exp(-y^2 / 2) F(q) / (1 + 3/4 y) with q = (y - 5) / (y + 5), where F varies little, between 0.5 and 0.3. `F`
  is its Chebyshev series, with an error of 2^-56, as a polynomial.
- exp would magnify the rounding error of y^2. So y = h + l, where h has few bits and h^2 is exact, and
  exp(-y^2 / 2) = exp(-h^2 / 2) exp(-l (y + h) / 2).

erf(x) is x times its Taylor series in x^2 up to 1, and 1 - 2 Q(sqrt(2) x) from there on. gelu(x) is relu(x) - a Q(a)
with a = abs(x), without cancellation on either side.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

# y + SPLIT - SPLIT has half of the bits of y, for y up to 40 (14 in float32); by the bits of the dtype
SPLIT = {64: 1.5 * 2.0**32, 32: 1.5 * 2.0**15, 16: 1.5 * 2.0**8}
LIMIT = 40.0  # Q is 0 from here on
TAYLOR = [2 / math.sqrt(math.pi) * (-1) ** k / (math.factorial(k) * (2 * k + 1)) for k in range(18)]
F = [
    0.3653666986312799, -0.10452860019150977, 0.05228997929097383, -0.012719205027109886, -0.007836944153699763,
    0.012549247310837097, -0.00912996891402684, 0.0042967894116652736, -0.0012021665761154188, 3.9412908742268245e-05,
    0.00012164375049669032, -3.996535751176086e-05, -5.761013914509513e-06, 6.4773395629782646e-06,
    -2.2141810617882328e-07, -9.197173334552782e-07, 1.1500856768010519e-07, 1.373519087360805e-07,
    -2.2285321656695145e-08, -2.1713315032031727e-08, 3.0735116899344095e-09, 3.1052582360241875e-09,
    -2.4310817564337817e-10, -2.706574351998324e-10,
]  # fmt: skip


def horner(coefficients: Sequence[Any], x: Any) -> Any:
    """Return c[0] + c[1] x + c[2] x^2 + ..."""
    *others, second, first = coefficients
    return reduce(lambda total, c: total * x + c, reversed(others), x * first + second)


def upper_tail(ops: Any, y: Any, split: float) -> tuple[Any, Any]:
    """Return two factors of Q(y), for 0 <= y <= `LIMIT`: exp(-y^2 / 2), which may underflow, and the other."""
    h = (y + split) - split
    rest = (y - h) * (y + h) * -0.5
    e = ops.exp(h * h * -0.5)
    e = e + e * (rest * horner([1, 1 / 2, 1 / 6, 1 / 24], rest))
    return e, horner(F, (y - 5) / (y + 5)) / (1 + 0.75 * y)


def erf(ops: Any, x: Any, split: float) -> Any:
    """Return the error function of x; `split` is that of the dtype."""
    a = ops.minimum(ops.abs(x), 6.0)  # erf(6) rounds to 1
    e, ratio = upper_tail(ops, a * math.sqrt(2), split)
    far = ops.sign(x) * (1 - 2 * ratio * e)
    return ops.where(ops.greater(1.0, a), x * horner(TAYLOR, a * a), far)


def gelu(ops: Any, x: Any, split: float) -> Any:
    """Return the Gaussian error linear unit of x; `split` is that of the dtype."""
    a = ops.minimum(ops.abs(x), LIMIT)
    e, ratio = upper_tail(ops, a, split)
    return ops.relu(x) - a * ratio * e
