"""Memory layouts of public arrays, and blocks of arrays in one allocation."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE, aligned

_C_CONTIGUOUS_AND_ALIGNED = 0x101  # flags of NumPy's C API

View = tuple[tuple[int, ...], int, tuple[int, ...] | None]


def contiguous(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Copy the arrays that are not C-contiguous and aligned."""
    ready = _C_CONTIGUOUS_AND_ALIGNED
    return [a if a.flags.num & ready == ready else np.array(a, order="C") for a in arrays]


def lines(size: int) -> int:
    """Round a size in bytes up to whole cache lines."""
    return -(-size // LINE) * LINE


class Block:
    """Arrays side by side in one allocation, each aligned to a cache line and padded to whole lines.

    `spare`: bytes after the end of each array that a job may write to. `views`: the shape, offset and strides of what
    `allocate` returns, at first the arrays themselves.
    """

    def __init__(self, dtype: np.dtype, shapes: Iterable[tuple[int, ...]], spare: int = 0) -> None:
        self.dtype, self.shapes = dtype, tuple(shapes)
        self.offsets: list[int] = []
        self.size = 0
        for shape in self.shapes:
            self.offsets.append(self.size)
            self.size += lines(math.prod(shape) * dtype.itemsize + spare)
        self.views: list[View] = [(*place, None) for place in zip(self.shapes, self.offsets, strict=True)]

    def allocate(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return new memory, which begins where the first array does, and the views of it, uninitialized."""
        memory, dtype = aligned(self.size), self.dtype
        return memory, [np.ndarray(shape, dtype, memory, at, strides) for shape, at, strides in self.views]


class Layout(NamedTuple):
    """The memory layout of a public array (features, m, T)."""

    strides: tuple[int, ...]
    time_major: bool  # already (T, m, features) in C order; else features or steps are contiguous


def layout_of(a: np.ndarray) -> tuple[np.ndarray, Layout]:
    """Return an array and its layout, or a copy if no job can read that layout."""
    features, _, n_steps = a.shape
    item, flags = a.itemsize, a.flags
    if flags.f_contiguous and flags.aligned:
        return a.T, Layout((item, *a.strides[1:]), True)  # `address` is faster for C order
    if not (flags.aligned and (features == 1 or a.strides[0] == item or a.strides[2] == item or n_steps == 1)):
        a = np.array(a, order="F")
    return a, Layout((item if features == 1 else a.strides[0], *a.strides[1:]), False)
