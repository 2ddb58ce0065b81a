"""The vocabulary of the compiled engine against the true values, in units in the last place."""

import ctypes
import re

import numpy as np
import pytest
from llvmlite import binding, ir

from rnnx.cells.vocabulary import Ops
from rnnx.engines.cpu.codegen.ir import Function, lanes
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector
from rnnx.engines.cpu.runtime import object_cache

# Maximum error. sin, cos, erf and gelu of float32 are computed in float64.
LIMIT = {np.float32: 2, np.float64: 4}
LIMIT_OF = {("gelu", np.float64): 5}
TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def longdouble_sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def longdouble_softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


TRUE = {
    "tanh": np.tanh,
    "sigmoid": longdouble_sigmoid,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "sin": np.sin,
    "cos": np.cos,
    "softplus": longdouble_softplus,
    "log_sigmoid": lambda x: -longdouble_softplus(-x),
}


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
    n = 150_000
    signs = rng.choice([-1.0, 1.0], n)
    parts = [scale * rng.standard_normal(n) for scale in (0.1, 1, 5, 30, 100)]
    parts += [signs * np.exp(rng.uniform(-100, 7, n)), (np.arange(-400, 400) + 0.5) * np.log(2)]
    return np.concatenate(parts).astype(dtype)


def more_samples(dtype):
    """All exponents, subnormal numbers, numbers near 1 and near multiples of pi / 2, up to the largest numbers."""
    rng = np.random.default_rng(1)
    n = 100_000
    bits = {np.float32: np.int32, np.float64: np.int64}[dtype]
    info = np.iinfo(bits)
    parts = [
        rng.integers(info.min, info.max, n, bits).view(dtype),
        rng.uniform(-1, 1, 1000) * np.finfo(dtype).smallest_normal,
        1 + rng.standard_normal(n) * 10 ** rng.uniform(-8, 0, n),
        rng.uniform(-1.6e6, 1.6e6, n),
        rng.integers(-1_000_000, 1_000_000, n) * (np.pi / 2),
        (rng.integers(1, 2**53, n) * (np.pi / 2)),
        [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, *(np.array([1, 1 + 1e-6]) * 1.5 * 2.0**20)],
    ]
    return np.concatenate([np.asarray(part).astype(dtype) for part in parts])


def assert_accurate(name, x, true):
    """Check the error in units in the last place, and that NaN and infinities are those of the true values."""
    dtype = x.dtype.type
    limit = LIMIT_OF.get((name, dtype), LIMIT[dtype])
    actual = apply(name, x)
    with np.errstate(over="ignore", under="ignore"):
        rounded = true.astype(dtype)
    finite = np.isfinite(rounded)
    error = np.abs(actual.astype(np.longdouble) - true)[finite] / np.spacing(np.abs(rounded[finite])).astype(
        np.longdouble
    )
    worst = np.argmax(error)
    assert error[worst] <= limit, f"{float(error[worst]):.2f} ulp at {x[finite][worst]!r}"
    np.testing.assert_array_equal(actual[~finite], rounded[~finite])


def wide_enough(dtype):
    if np.finfo(np.longdouble).nmant < 63 and dtype is np.float64:
        pytest.skip("no wider type to compare float64 with on this platform")


@TYPES
@pytest.mark.parametrize("name", TRUE)
def test_error_in_ulp(name, dtype):
    wide_enough(dtype)
    x = np.concatenate([samples(dtype), more_samples(dtype)])
    with np.errstate(all="ignore"):
        assert_accurate(name, x, TRUE[name](x.astype(np.longdouble)))


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.usefixtures("processor")
def test_quotients_on_other_processors(name):
    """In float32, with or without estimates of reciprocals and fused multiply-adds; none is above 1."""
    every = more_samples(np.float32)
    x = np.concatenate([samples(np.float32)[::9], every[::9], every[-8:]])
    with np.errstate(all="ignore"):
        assert_accurate(name, x, TRUE[name](x.astype(np.longdouble)))
    assert apply(name, np.linspace(0, 30, 500_000, dtype=np.float32)).max() == 1


@TYPES
@pytest.mark.parametrize("name", ["sin", "cos", "erf", "gelu"])
def test_error_against_many_digits(name, dtype):
    """Functions that NumPy lacks, and the hardest arguments of sine and cosine."""
    wide_enough(dtype)
    mp = pytest.importorskip("mpmath", reason="no mpmath").mp.clone()
    mp.dps = 350
    rng = np.random.default_rng(2)
    if name in ("sin", "cos"):
        true = getattr(mp, name)
        # The float64 that is closest to a multiple of pi / 2, and others that are close.
        x = [float.fromhex("0x1.6ac5b262ca1ffp+849"), *(float(k * mp.pi / 2) for k in rng.integers(1, 2**60, 500))]
        x += [*(float(k * mp.pi / 2) for k in range(-300, 300)), *10 ** rng.uniform(0, 300, 500)]
    else:
        mp.dps = 40
        true = mp.erf if name == "erf" else (lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2)
        x = [*rng.uniform(-40, 10, 2000), *rng.uniform(-2, 2, 2000), *(10 ** rng.uniform(-40, 2, 500))]
        x += [*(rng.choice([-1, 1], 500) * np.exp(rng.uniform(-300, 7, 500))), 0.0, 1.0, -1.0, 6.0, -40.0, 1e30, -1e30]
    x = np.array(x)
    x = x[np.abs(x) < float(np.finfo(dtype).max)].astype(dtype)
    values = [true(mp.mpf(float(value))) for value in x]
    digits = [mp.nstr(value, 25) if abs(value) > mp.mpf(10) ** -400 else "0" for value in values]
    assert_accurate(name, x, np.array([np.longdouble(number) for number in digits]))


@TYPES
def test_special_values(dtype):
    large = np.finfo(dtype).max
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, large, -large], dtype)
    nan, inf, two = np.nan, np.inf, np.log(np.array(2, dtype))
    expected = {
        "tanh": [nan, 1, -1, 0.0, -0.0, 1, -1],
        "sigmoid": [nan, 1, 0, 0.5, 0.5, 1, 0],
        "exp": [nan, inf, 0, 1, 1, inf, 0],
        "relu": [nan, inf, 0, 0, 0, large, 0],
        "heaviside": [0, 1, 0, 0, 0, 1, 0],
        "log": [nan, inf, nan, -inf, -inf, np.log(x[5]), nan],
        "sqrt": [nan, inf, nan, 0.0, -0.0, np.sqrt(x[5]), nan],
        "abs": [nan, inf, inf, 0, 0, large, large],
        "sign": [nan, 1, -1, 0, 0, 1, -1],
        "floor": [nan, inf, -inf, 0.0, -0.0, large, -large],
        "sin": [nan, nan, nan, 0.0, -0.0],
        "cos": [nan, nan, nan, 1, 1],
        "softplus": [nan, inf, 0, two, two, large, 0],
        "log_sigmoid": [nan, 0, -inf, -two, -two, 0, -large],
        "erf": [nan, 1, -1, 0.0, -0.0, 1, -1],
        "gelu": [nan, inf, 0, 0.0, -0.0, large, 0],
    }
    for name, values in expected.items():
        actual = apply(name, x)[: len(values)]
        np.testing.assert_array_equal(actual, np.array(values, dtype), name)
        if name in ("tanh", "sqrt", "floor", "sin", "erf", "gelu"):
            assert np.signbit(actual)[3:5].tolist() == [False, True], name


@TYPES
def test_tiny_arguments(dtype):
    """tanh(x) = sin(x) = x down to the smallest number."""
    x = np.array([1e-30, -1e-38, np.finfo(dtype).smallest_subnormal], dtype)
    for name in ("tanh", "sin"):
        np.testing.assert_array_equal(apply(name, x), x)


@TYPES
def test_floor_between_integers(dtype):
    """Also next to integers, and at the largest numbers with a fraction."""
    most = 2.0 ** (np.finfo(dtype).nmant)
    x = np.array([0.5, 1.0, 1.5, 2.5, 7.99, 1e-30, 1e5 + 0.3, most / 2 + 0.5, most - 1, most, 2 * most + 2], dtype)
    x = np.concatenate([x, np.nextafter(x, dtype(0)), np.nextafter(x, dtype(np.inf))])
    np.testing.assert_array_equal(apply("floor", np.concatenate([x, -x])), np.floor(np.concatenate([x, -x])))


@TYPES
def test_small_results_do_not_cancel(dtype):
    x = np.array([-30, -60, -85], dtype)
    np.testing.assert_allclose(apply("softplus", x), np.log1p(np.exp(x)), 4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(apply("log_sigmoid", -x), -np.log1p(np.exp(x)), 4 * np.finfo(dtype).eps)


@TYPES
def test_a_large_argument_does_not_change_its_neighbours(dtype):
    """It takes the branch for all lanes of its vector."""
    x = np.linspace(-50, 50, 64).astype(dtype)
    mixed = x.copy()
    mixed[::3] = [1e7, np.inf] * 11
    for name in ("sin", "cos"):
        np.testing.assert_array_equal(
            np.delete(apply(name, mixed), slice(None, None, 3)), np.delete(apply(name, x), slice(None, None, 3))
        )


@TYPES
def test_compiled_words_need_no_library(dtype):
    """The object cache links nothing, so machine code may call no function of the C library."""
    module = ir.Module()
    f = Function(module, "words", ("x",), dtype, public=True)
    x = Vector(f, f.load_vector(f.arguments.x))
    ops = make_ops(dtype)
    words = set(Ops._fields) - {"mean", "maximum", "minimum", "greater", "where", "constant"}
    results = [getattr(ops, word)(x) for word in sorted(words)]
    results += [ops.maximum(x, 1.0), ops.minimum(2.0, x), ops.where(ops.greater(x, 1.0), x, ops.constant(3.0, x))]
    f.store_vector(sum(results[1:], results[0]).value, f.arguments.x)
    f.end()
    parsed = binding.parse_assembly(str(module))
    declared = [function.name for function in parsed.functions if function.is_declaration]
    assert declared
    assert all(name.startswith("llvm.") for name in declared)
    code = object_cache._compile(str(module))
    for symbol in (b"sin", b"cos", b"log", b"exp", b"fma", b"pow", b"sqrt", b"floatti"):
        assert not re.search(rb"\0_*" + symbol + rb"f?\0", code)
