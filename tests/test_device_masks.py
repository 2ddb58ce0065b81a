"""Masks that engines make have the bits of those that NumPy draws."""

import shutil

import numpy as np
import pytest
from conftest import NO_COMPILER

from rnnx import engines, use_engine
from rnnx.models import Masks
from rnnx.models.masks import dropped

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
SHAPES = pytest.mark.parametrize("shape", [(5, 3, 4), (8, 2, 1), (1, 1, 3), (33, 17, 2), (25, 9, 2), (128, 40, 3)])


@DTYPES
@SHAPES
@pytest.mark.usefixtures("processor")
def test_masks_of_the_cpu_engine(shape, dtype, monkeypatch):
    like = np.empty(0, dtype)
    for seed, start, rate in (((0, 1), 0, 0.3), ((7, 2**40), 5, 0.5), ((123, 9), 2**33, 0.1), ((1,), 0, 0.999)):
        masks, arguments = Masks(seed, start), ("_l0", rate, shape, like, 1 / (1 - rate))
        with use_engine("reference"):
            drawn = masks.kept(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "Generator", None)  # it is not needed
            found = masks.kept(*arguments)
        assert found.dtype == drawn.dtype == dtype
        assert found.T.flags.c_contiguous
        assert np.array_equal(found, drawn)


@DTYPES
@SHAPES
@pytest.mark.skipif(not shutil.which("g++"), reason=NO_COMPILER)
def test_masks_of_the_gpu_engine(shape, dtype):
    engine = engines.load("emulated")
    like = np.empty(0, dtype)
    for seed, start, rate in (((0, 1), 0, 0.3), ((7, 2**40), 5, 0.5), ((123, 9), 2**33, 0.1), ((1,), 0, 0.999)):
        masks = Masks(seed, start)
        key = masks.key_on_device("_l0", like)
        assert key.dtype == np.int64
        for value in (1.0, 1 / (1 - rate)):
            found = engine.kept(key, start, rate, shape, like, value)
            assert found.dtype == dtype
            assert found.strides[0] == like.itemsize  # time-major
            assert np.array_equal(found, masks.kept("_l0", rate, shape, like, value))


@SHAPES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("processor")
def test_dropout_of_the_cpu_engine(shape, dtype, rng, monkeypatch):
    """It has the bits of a product with the mask, also of its cotangent, which need not be contiguous."""
    x, d = (rng.standard_normal(shape[::-1]).astype(dtype).T for _ in range(2))
    x.flat[:3] = np.nan, np.inf, -0.0
    for seed, start, rate in (((7, 2**40), 5, 0.5), ((123, 9), 2**33, 0.1)):
        masks = Masks(seed, start)
        mask = masks.draw("_l0", rate, x)
        with np.errstate(invalid="ignore"):
            expected = x * mask
        with monkeypatch.context() as patch:
            patch.setattr(Masks, "draw", None)  # no mask is made
            given = x.copy(order="K")
            found, again = dropped(given, masks, "_l0", rate)
            others = np.array(x, order="C"), np.array(x, order="F")
            others[1].flags.writeable = False
            copies = [dropped(other, masks, "_l0", rate)[0] for other in others]
        assert np.may_share_memory(found, given)
        for one in (found, *copies):
            assert one.tobytes() == expected.tobytes()
            assert one.T.flags.c_contiguous
        assert all(other.tobytes() == x.tobytes() for other in others[1:])
        for other in (d.copy(order="K"), np.repeat(d, 2, axis=0)[::2], np.array(d, order="C")):
            assert np.array_equal(again(other), d * mask)
        unwritable = d.copy(order="K")
        unwritable.flags.writeable = False
        assert np.array_equal(again(unwritable), d * mask)
        for other in (d.astype(kind) for kind in (np.float16, np.float32, np.float64)):
            expected = other * mask
            product = again(other)
            assert product.dtype == expected.dtype
            assert np.array_equal(product, expected)


def test_dropout_of_other_arrays(rng):
    x = rng.standard_normal((5, 3, 4)).astype(np.float16)
    masks = Masks((3, 1))
    for given in (x, x[:, :0]):
        found, again = dropped(given, masks, "_l0", 0.5)
        mask = masks.draw("_l0", 0.5, given)
        assert found.dtype == np.float16
        assert np.array_equal(found, given * mask)
        assert np.array_equal(again(given), given * mask)
