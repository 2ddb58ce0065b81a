"""Masks that engines make have the bits of those that NumPy draws."""

import shutil

import numpy as np
import pytest
from conftest import NO_COMPILER

from rnnx import engines, use_engine
from rnnx.models import Masks

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
SHAPES = pytest.mark.parametrize("shape", [(5, 3, 4), (8, 2, 1), (1, 1, 3), (33, 17, 2), (128, 40, 3)])


@DTYPES
@SHAPES
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
