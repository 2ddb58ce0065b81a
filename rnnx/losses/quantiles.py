"""Quantiles of distributions, and the levels that users give."""

import math
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from rnnx._core.checks import real

_DEGREE = 40  # of the polynomial in `t_quantiles`


def checked_levels(given: Any) -> tuple[float, ...]:
    """Return increasing levels between 0 and 1."""
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise TypeError(f"`quantiles` must be a sequence of numbers; got {type(given).__name__}")
    levels = tuple(real("quantiles", q, "(0, 1)") for q in given)
    if not levels or any(a >= b for a, b in pairwise(levels)):
        raise ValueError(f"`quantiles` must increase, and be at least one; got {list(levels)}")
    return levels


def normal_quantile(level: float) -> float:
    """Return a quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(level)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return (nodes + 1) / 2, weights / 2


def t_quantile(level: float, df: float) -> float:
    """Return a quantile of Student's t-distribution with df >= 1 degrees of freedom.

    With t = sqrt(df) tan(angle), the probability between 0 and t is the integral of c cos(angle)^(df - 1). It is
    concave, so that Newton's method, which begins at 0, stays below the solution.
    """
    if df > 1e4:  # the beginning of the series in 1 / df
        z = normal_quantile(level)
        return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
    nodes, weights = _quadrature()
    c = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    wanted, angle = abs(level - 0.5), 0.0
    for _ in range(100):
        between = c * angle * float(weights @ np.cos(angle * nodes) ** (df - 1))
        step = (wanted - between) / (c * math.cos(angle) ** (df - 1))
        angle = min(angle + step, math.pi / 2)
        if step <= 1e-13 * angle:
            break
    return math.copysign(math.sqrt(df) * math.tan(angle), level - 0.5)


@lru_cache(maxsize=64)
def _coefficients(level: float) -> tuple[float, ...]:
    """Return the quantile as a Chebyshev series in 4 / df - 1, for df >= 2."""
    values = np.vectorize(lambda s: t_quantile(level, 4 / (s + 1)), otypes=[float])
    return tuple(np.polynomial.chebyshev.chebinterpolate(values, _DEGREE).tolist())


def t_quantiles(level: float, df: Any) -> Any:
    """Return the quantiles of Student's t-distribution for an array of df >= 2, of any library."""
    first, *others = _coefficients(level)
    s = 4.0 / df - 1.0
    one, two = 0.0 * s, 0.0 * s
    for coefficient in reversed(others):
        one, two = coefficient + 2.0 * s * one - two, one
    return first + s * one - two


_LARGE = 1e6  # a rate beyond which the expansion below is exact but for one count in millions


def poisson_quantiles(level: float, rates: np.ndarray) -> np.ndarray:
    """Return the quantiles of Poisson distributions: the least counts k with P(X <= k) >= level.

    The first guess is the Cornish-Fisher expansion, from which counts go up or down.
    """
    wide = np.asarray(rates, float)
    z, root = normal_quantile(level), np.sqrt(wide)
    with np.errstate(all="ignore"):  # rates of 0, infinity and NaN
        more = np.where(wide > 1, (7 * z - z**3) / (72 * root), 0)
        counts = np.maximum(np.ceil(wide + z * root + (z * z - 1) / 6 + more - 0.5), 0)
        counts = np.where(np.isfinite(wide), counts, wide)
    moving, before = wide < _LARGE, np.zeros_like(wide)
    while moving.any():
        k, rate = counts[moving], wide[moving]
        below, here = _poisson_tail(k, rate)
        change = (below < level) * 1 - ((k > 0) & (below - here >= level))
        change = np.where(change == -before[moving], 0, change)  # the level is that of a count, but for rounding
        counts[moving], before[moving] = k + change, change
        moving[moving] = change != 0
    return counts.astype(rates.dtype)


def _poisson_tail(k: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return P(X <= k) and P(X = k) of Poisson distributions.

    The first is the integral of t^k exp(-t) from the rate on, divided by that from 0 on, k!, which is computed, too.
    """
    spread = 12 * np.sqrt(k + 1)
    low, high = np.maximum(k - spread, 0), k + spread + 40
    middle = np.clip(rate, low, high)

    def density(t: Any) -> np.ndarray:  # not above 1
        t = np.maximum(t, 1e-300)
        return np.exp(k * np.log(t / np.maximum(k, 1)) - (t - k))

    left, right = np.zeros_like(rate), np.zeros_like(rate)
    for node, weight in zip(*_quadrature(), strict=True):
        left += weight * density(low + (middle - low) * node)
        right += weight * density(middle + (high - middle) * node)
    left, right = left * (middle - low), right * (high - middle)
    return right / (left + right), density(rate) / (left + right)
