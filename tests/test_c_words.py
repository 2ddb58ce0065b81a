"""The vocabulary of cells in C against the true values, in units in the last place."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from rnnx.cells.expressions import WORDS
from rnnx.cells.vocabulary import array_ops
from rnnx.export.words import source_of

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")

UNARY = sorted(word for word, n in WORDS.items() if n == 1 and word != "mean")
LIMIT = 2.0  # ulp


@pytest.fixture(scope="module", params=["off", "fast"])
def words(request, tmp_path_factory):
    """The functions of one argument, applied to arrays, with and without fused multiplications and additions."""
    folder = tmp_path_factory.mktemp("words")
    loops = [
        f"void {word}_of(const float *x, float *y, int n) {{ int i; for (i = 0; i < n; ++i) y[i] = op_{word}(x[i]); }}"
        for word in UNARY
    ]
    text = "#include <stdint.h>\n" + source_of(UNARY) + "\n" + "\n".join(loops)
    (folder / "words.c").write_text(text)
    command = ["cc", "-std=c99", "-O3", "-march=native", f"-ffp-contract={request.param}"]
    command += ["-shared", "-fPIC", "-nostdlib", "words.c", "-o", "words.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "words.so"))

    def apply(word, x):
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty_like(x)
        getattr(library, f"{word}_of")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), x.size)
        return y

    return apply


def samples(word):
    """All scales, both signs, all exponents, subnormal numbers, multiples of pi / 2, and special numbers."""
    rng, n = np.random.default_rng(0), 20_000
    parts = [scale * rng.standard_normal(n) for scale in (0.1, 1, 5, 30, 100)]
    parts += [rng.choice([-1, 1], n) * np.exp(rng.uniform(-100, 7, n)), (np.arange(-400, 400) + 0.5) * np.log(2)]
    bits = rng.integers(-(2**31), 2**31 - 1, n, np.int64).astype(np.int32).view(np.float32)
    parts += [bits, rng.uniform(-1, 1, 1000) * 1.2e-38, 1 + rng.standard_normal(n) * 10 ** rng.uniform(-8, 0, n)]
    parts += [rng.integers(-1_000_000, 1_000_000, n) * (np.pi / 2), rng.integers(1, 2**62, n) * (np.pi / 2)]
    parts += [[0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38]]
    x = np.concatenate([np.asarray(part).astype(np.float32) for part in parts])
    return x[:: 40 if word in ("sin", "cos", "erf", "gelu") else 1]


def true(word, x):
    """The values in double precision; sine and cosine of large arguments with many digits."""
    if word in ("sin", "cos"):
        mp = pytest.importorskip("mpmath", reason="no mpmath").mp.clone()
        mp.dps = 60
        finite = np.isfinite(x)
        y = np.full(x.shape, np.nan)
        y[finite] = [float(getattr(mp, word)(mp.mpf(float(value)))) for value in x[finite]]
        return y
    if word == "softplus":
        return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    if word == "log_sigmoid":
        return -true("softplus", -x)
    return getattr(array_ops(np), word)(x)


@pytest.mark.parametrize("word", UNARY)
def test_error_in_ulp(word, words):
    x = samples(word)
    with np.errstate(all="ignore"):
        expected = true(word, x.astype(np.float64))
        rounded = expected.astype(np.float32)
    found, finite = words(word, x), np.isfinite(rounded)
    np.testing.assert_array_equal(found[~finite], rounded[~finite])
    error = np.abs(found[finite] - expected[finite]) / np.spacing(np.abs(rounded[finite]))
    worst = np.argmax(error)
    assert error[worst] <= LIMIT, f"{error[worst]:.2f} ulp at {x[finite][worst]!r}"


@pytest.mark.parametrize("word", ["tanh", "sqrt", "floor", "sin", "erf", "gelu"])
def test_signs_of_zeros(word, words):
    assert np.signbit(words(word, np.array([0.0, -0.0] * 9))).tolist() == [False, True] * 9
