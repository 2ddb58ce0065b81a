"""The packed product of the compiled engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnx.engines import _threads, _tile, jit
from rnnx.engines._tile import K_BLOCK, make_product, pack, padded_columns

DTYPES = [np.float32, np.float64]


def packed(W):
    out = np.full(W.shape[0] * padded_columns(W.dtype.type, W.shape[1]) + 3, np.nan, W.dtype)
    pack(W, out)
    assert np.isnan(out[-3:]).all()
    return out[:-3]


def bounded(actual, H, W, dtype):
    """Within the rounding of a sum of K products in any order."""
    exact = H.astype(np.float64) @ W.astype(np.float64)
    return np.all(np.abs(actual - exact) <= (W.shape[0] + 1) * np.finfo(dtype).eps * (np.abs(H) @ np.abs(W)) + 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 20), k=st.integers(1, 70), columns=st.integers(1, 200), seed=st.integers(0, 9))
def test_product_is_the_matrix_product(dtype, rows, k, columns, seed):
    rng = np.random.default_rng(seed)
    product = make_product(dtype)
    W, H = rng.standard_normal((k, columns)).astype(dtype), rng.standard_normal((rows + 3, k)).astype(dtype)
    weights = packed(W)
    np.testing.assert_array_equal(weights, packed(W.T.copy().T))
    Z = np.full((rows + 2, padded_columns(dtype, columns)), np.nan, dtype)
    product(weights, H.reshape(-1), 2 * k, k, 1, k, rows, Z, 1, False)
    assert bounded(Z[1:-1, :columns], H[2 : rows + 2], W, dtype)
    assert np.all(Z[1:-1, columns:] == 0)
    assert np.all(np.isnan(Z[[0, -1]]))  # nothing above, nothing below


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(1, 60), k=st.integers(1, 900), columns=st.integers(1, 60), ta=st.booleans(), tb=st.booleans(),
    biased=st.booleans(), threads=st.integers(1, 3),
)  # fmt: skip
def test_matmul_of_every_orientation(dtype, rows, k, columns, ta, tb, biased, threads):
    """Long sums go in blocks, large products on threads; neither shows in the bits."""
    rng = np.random.default_rng(rows + k)
    a, b = rng.standard_normal((rows, k)).astype(dtype), rng.standard_normal((k, columns)).astype(dtype)
    bias = rng.standard_normal(columns).astype(dtype) if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "_SMALL", 0)
        whole = jit.matmul(np, a, b, bias)
        patch.setattr(_threads, "_PRODUCTS_PER_SLICE", 1)
        patch.setattr(_threads, "max_threads", lambda: threads)
        out = jit.matmul(np, a.T.copy().T if ta else a, b.T.copy().T if tb else b, bias)
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, whole)
    if biased:  # a bias is one more product, by 1
        a, b = np.c_[np.ones(rows, dtype), a], np.r_[bias[None], b]
    assert bounded(out, a, b, dtype)


@pytest.mark.parametrize("shape", [(64, 4, 6), (32, 2, 6), (16, 4, 6), (16, 2, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_for_other_cpus(shape, dtype, monkeypatch):
    """What would run on AVX-512, AVX2, NEON and anything else; LLVM splits vectors that the CPU does not have."""
    monkeypatch.setattr(_tile, "_shape", lambda: shape)
    product = make_product.__wrapped__(dtype)
    rng = np.random.default_rng(0)
    lanes = shape[0] // np.dtype(dtype).itemsize
    sizes = ((1, 1, 11), (5, 3 * lanes, K_BLOCK + 5), (13, shape[1] * lanes + 1, 11), (7, 4 * shape[1] * lanes, 2))
    for rows, columns, k in sizes:
        W, H = rng.standard_normal((k, columns)).astype(dtype), rng.standard_normal((rows, k)).astype(dtype)
        Z = np.empty((rows, padded_columns(dtype, columns)), dtype)
        product(packed(W), H.reshape(-1), 0, k, 1, k, rows, Z, 0, False)
        assert bounded(Z[:, :columns], H, W, dtype)


def test_a_row_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    product = make_product(np.float32)
    W, H = rng.standard_normal((50, 96), np.float32), rng.standard_normal((13, 50), np.float32)
    whole, single = np.empty((13, 96), np.float32), np.empty((1, 96), np.float32)
    weights = packed(W)
    product(weights, H.reshape(-1), 0, 50, 1, 50, 13, whole, 0, False)
    for j in range(13):
        product(weights, H.reshape(-1), j * 50, 50, 1, 50, 1, single, 0, False)
        assert np.array_equal(single[0], whole[j])
