"""Memory layouts of public arrays, and blocks of arrays in one allocation."""

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE, empty

_C_CONTIGUOUS_AND_ALIGNED = 0x101  # flags of NumPy's C API
_BYTE: Any = ctypes.c_char


def address(a: np.ndarray) -> int:
    """Return the address of the first element."""
    try:
        return ctypes.addressof(_BYTE.from_buffer(a))
    except (TypeError, ValueError, BufferError):  # read-only, empty or not contiguous: slower
        return int(a.ctypes.data)


def addresses(arrays: Sequence[np.ndarray]) -> list[int]:
    """Return the addresses of the first elements."""
    try:
        return list(map(ctypes.addressof, map(_BYTE.from_buffer, arrays)))
    except (TypeError, ValueError, BufferError):
        return list(map(address, arrays))


def contiguous(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Copy the arrays that are not C-contiguous and aligned."""
    ready = _C_CONTIGUOUS_AND_ALIGNED
    return [a if a.flags.num & ready == ready else np.array(a, order="C") for a in arrays]


def lines(size: int) -> int:
    """Round a size in bytes up to whole cache lines."""
    return -(-size // LINE) * LINE


class Block:
    """Arrays side by side in one allocation, each aligned to a cache line and padded to whole lines.

    `spare`: bytes after the end of each array that a job may write to.
    """

    def __init__(self, dtype: np.dtype, shapes: Iterable[tuple[int, ...]], spare: int = 0) -> None:
        self.dtype, self.shapes = dtype, tuple(shapes)
        self.offsets: list[int] = []
        self.size = 0
        for shape in self.shapes:
            self.offsets.append(self.size)
            self.size += lines(math.prod(shape) * dtype.itemsize + spare)

    def allocate(self) -> list[np.ndarray]:
        """Return new, uninitialized arrays."""
        memory = empty((self.size + LINE,), np.uint8)
        shift = -address(memory) % LINE
        dtype = self.dtype
        return [np.ndarray(s, dtype, memory, shift + at) for s, at in zip(self.shapes, self.offsets, strict=True)]


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
