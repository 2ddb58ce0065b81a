"""The packed product of the compiled engine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnx.engines._tile import make_product, padded_columns


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(rows=st.integers(1, 20), k=st.integers(1, 70), columns=st.integers(1, 200), seed=st.integers(0, 9))
def test_product_is_the_matrix_product(dtype, rows, k, columns, seed):
    rng = np.random.default_rng(seed)
    pack, product = make_product(dtype)
    W, H = rng.standard_normal((k, columns)).astype(dtype), rng.standard_normal((rows + 3, k)).astype(dtype)
    Z = np.full((rows + 1, padded_columns(dtype, columns)), np.nan, dtype)
    product(pack(W), H.reshape(-1), 2 * k, k, k, rows, Z)
    expected = H[2 : rows + 2].astype(np.float64) @ W.astype(np.float64)
    bound = k * np.finfo(dtype).eps * (np.abs(H[2 : rows + 2]) @ np.abs(W))
    assert np.all(np.abs(Z[:rows, :columns] - expected) <= bound)
    assert np.all(Z[:rows, columns:] == 0)
    assert np.all(np.isnan(Z[rows:]))  # nothing below


def test_a_row_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    pack, product = make_product(np.float32)
    W, H = rng.standard_normal((50, 96), np.float32), rng.standard_normal((13, 50), np.float32)
    whole, single = np.empty((13, 96), np.float32), np.empty((1, 96), np.float32)
    product(pack(W), H.reshape(-1), 0, 50, 50, 13, whole)
    for j in range(13):
        product(pack(W), H.reshape(-1), j * 50, 50, 50, 1, single)
        assert np.array_equal(single[0], whole[j])
