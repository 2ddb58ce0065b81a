"""Memory layouts of public arrays, and blocks of arrays in one allocation."""

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE, aligned_at

_C_CONTIGUOUS, _F_CONTIGUOUS, _ALIGNED = 0x1, 0x2, 0x100  # flags of NumPy's C API
memory_of: Any = attrgetter("shape", "strides", "flags.num")  # what the layout of an array depends on

View = tuple[tuple[int, ...], int, tuple[int, ...] | None]


def contiguous(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Copy the arrays that are not C-contiguous and aligned."""
    ready = _C_CONTIGUOUS | _ALIGNED
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

    def allocate(self) -> tuple[int, list[np.ndarray]]:
        """Return the address of new memory, where the first array begins, and the views of it, uninitialized."""
        (memory, at), dtype = aligned_at(self.size), self.dtype
        return at, [np.ndarray(shape, dtype, memory, offset, strides) for shape, offset, strides in self.views]


class Layout(NamedTuple):
    """The memory layout of a public array (features, m, T)."""

    strides: tuple[int, ...]
    time_major: bool  # already (T, m, features) in C order; else features or steps are contiguous


class Reading(NamedTuple):
    """How a job reads a public array."""

    layout: Layout
    copied: bool  # no job can read the array's own layout

    def of(self, a: np.ndarray) -> np.ndarray:
        """Return the array to read; time-major ones transposed, as `address` is faster for C order."""
        a = np.array(a, order="F") if self.copied else a
        return a.T if self.layout.time_major else a


TIME_MAJOR = Reading(Layout((), True), False)


def reading(memory: Any, item: int) -> Reading:
    """Return how a job reads an array (features, m, T), given its `memory_of`, with `item` bytes a number."""
    (features, m, n_steps), strides, flags = memory
    if flags & _ALIGNED and flags & _F_CONTIGUOUS:
        return Reading(Layout((item, *strides[1:]), True), False)
    if flags & _ALIGNED and (features == 1 or item in (strides[0], strides[2]) or n_steps == 1):
        return Reading(Layout((item if features == 1 else strides[0], *strides[1:]), False), False)
    return Reading(Layout((item, features * item, features * m * item), True), True)
