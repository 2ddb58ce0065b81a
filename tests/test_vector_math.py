"""tanh, sigmoid and exp of the compiled engine against the true value, in units in the last place."""

import ctypes

import numpy as np
import pytest

from rnnx.engines.cpu.codegen.ir import Function, lanes
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector
from rnnx.engines.cpu.runtime import object_cache

LIMIT = {np.float32: 2, np.float64: 4}


def longdouble_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


TRUE = {"tanh": np.tanh, "sigmoid": longdouble_sigmoid, "exp": np.exp}


def apply(name, x):
    """A function of the vocabulary, compiled in a loop over an array."""

    def emit(module):
        f = Function(module, name, ("x", "out", "vectors"), x.dtype, public=True)
        with f.loop(f.arguments.vectors) as v:
            offset = f.times(v, f.lanes * f.itemsize)
            result = getattr(make_ops(x.dtype), name)(Vector(f, f.load_vector(f.sum(f.arguments.x, offset))))
            f.store_vector(result.value, f.sum(f.arguments.out, offset))
        f.end()

    vectors = -(-x.size // lanes(x.dtype))
    padded = np.zeros(vectors * lanes(x.dtype), x.dtype)
    padded[: x.size] = x
    out = np.empty_like(padded)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(object_cache.functions(emit)[name])
    function(padded.ctypes.data, out.ctypes.data, vectors)
    return out[: x.size]


def samples(dtype):
    """The whole range: every scale, both signs, and the bounds of every reduction step."""
    rng = np.random.default_rng(0)
    n = 400_000
    signs = rng.choice([-1.0, 1.0], n)
    parts = [scale * rng.standard_normal(n) for scale in (0.1, 1, 5, 30, 100)]
    parts += [signs * np.exp(rng.uniform(-100, 7, n)), (np.arange(-400, 400) + 0.5) * np.log(2)]
    return np.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TRUE)
def test_error_in_ulp(name, dtype):
    if np.finfo(np.longdouble).nmant < 63 and dtype is np.float64:
        pytest.skip("no wider type to compare float64 with on this platform")
    x = samples(dtype)
    true = TRUE[name](x.astype(np.longdouble))
    with np.errstate(over="ignore", under="ignore"):
        rounded = true.astype(dtype)
    finite = np.isfinite(rounded)
    actual = apply(name, x)
    error = np.abs(actual.astype(np.longdouble) - true)[finite] / np.spacing(np.abs(rounded[finite])).astype(
        np.longdouble
    )
    worst = np.argmax(error)
    assert error[worst] <= LIMIT[dtype], f"{float(error[worst]):.2f} ulp at {x[finite][worst]!r}"
    assert np.all(actual[~finite] == np.inf)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max], dtype)
    np.testing.assert_array_equal(apply("tanh", x), np.array([np.nan, 1, -1, 0.0, -0.0, 1, -1], dtype))
    assert np.signbit(apply("tanh", x))[4]
    np.testing.assert_array_equal(apply("sigmoid", x), np.array([np.nan, 1, 0, 0.5, 0.5, 1, 0], dtype))
    np.testing.assert_array_equal(apply("exp", x), np.array([np.nan, np.inf, 0, 1, 1, np.inf, 0], dtype))
    np.testing.assert_array_equal(apply("relu", x)[:3], np.array([np.nan, np.inf, 0], dtype))
    np.testing.assert_array_equal(apply("heaviside", x)[1:5], np.array([1, 0, 0, 0], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiny_arguments(dtype):
    """tanh(x) = x down to the smallest number."""
    x = np.array([1e-30, -1e-38, np.finfo(dtype).smallest_subnormal], dtype)
    np.testing.assert_array_equal(apply("tanh", x), x)
