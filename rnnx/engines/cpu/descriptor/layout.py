"""Memory layouts of public arrays, and blocks of arrays in one allocation."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE, address, bytes_allocation, is_pooled, start_of

_C_CONTIGUOUS, _F_CONTIGUOUS, _ALIGNED = 0x1, 0x2, 0x100  # flags of NumPy's C API
_READY, _ROWS = _C_CONTIGUOUS | _ALIGNED, _F_CONTIGUOUS | _ALIGNED
memory_of: Any = attrgetter("shape", "strides", "flags.num")  # what the layout of an array depends on

View = tuple[tuple[int, ...], int, tuple[int, ...] | None]

_LARGEST_RECORD = 1 << 31  # bytes of NumPy's records, which must be fewer

Change = Callable[[np.ndarray], np.ndarray]  # of the caller's array to one that a job can read


def contiguous(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Copy the arrays that are not C-contiguous and aligned."""
    return [a if a.flags.num & _READY == _READY else np.array(a, order="C") for a in arrays]


def to_contiguous(memory: Any) -> Change | None:
    """Return how to make an array, given its `memory_of`, C-contiguous and aligned; None if it is."""
    return None if memory[2] & _READY == _READY else _in_c_order


def to_rows(memory: Any) -> Change | None:
    """Return how to make (n, m), given its `memory_of`, F-contiguous and aligned; None if it is."""
    return None if memory[2] & _ROWS == _ROWS else _in_f_order


def rows(a: np.ndarray) -> np.ndarray:
    """Return (n, m) F-contiguous and aligned."""
    return a if a.flags.num & _ROWS == _ROWS else np.array(a, order="F")


def _in_c_order(a: np.ndarray) -> np.ndarray:
    return np.array(a, order="C")


def _in_f_order(a: np.ndarray) -> np.ndarray:
    return np.array(a, order="F")


def to_indices(a: np.ndarray) -> np.ndarray:
    """Return indices (m, T) in F order and 64 bits."""
    return np.asfortranarray(a, np.int64)


def lines(size: int) -> int:
    """Round a size in bytes up to whole cache lines."""
    return -(-size // LINE) * LINE


class Views:
    """How to view memory as arrays: their shapes, offsets from its first cache line, and strides, None in C order.

    Without strides, they are fields of a record of `size` bytes, which NumPy makes in a third of the time.
    """

    def __init__(self, dtype: np.dtype, views: Sequence[View], size: int) -> None:
        self._dtype, self._views, self._size = dtype, views, size
        self._pooled = bytes_allocation(size + LINE) if is_pooled(size) else None
        self._fields: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
        if len(views) >= 2 and size < _LARGEST_RECORD and all(strides is None for _, _, strides in views):
            names, formats = [f"f{k}" for k in range(len(views))], [(dtype, shape) for shape, _, _ in views]
            offsets = [at for _, at, _ in views]
            self._record = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
            self._fields = itemgetter(*names)

    def allocate(self) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Return new memory, where the first array begins with it, and the views of it, uninitialized."""
        buffer = None if self._pooled is None else self._pooled()
        start = 0 if buffer is None else start_of(buffer)
        if self._fields is not None:
            record = np.empty((), self._record) if buffer is None else np.ndarray((), self._record, buffer, start)
            return record, self._fields(record)
        memory = np.empty(self._size, np.uint8) if buffer is None else buffer[start : start + self._size]
        return memory, [np.ndarray(shape, self._dtype, memory, at, strides) for shape, at, strides in self._views]

    def __call__(self, memory: np.ndarray) -> Sequence[np.ndarray]:
        """Return the views."""
        start = start_of(memory)
        if self._fields is not None:
            return self._fields(np.ndarray((), self._record, memory, start))
        return [np.ndarray(shape, self._dtype, memory, start + at, strides) for shape, at, strides in self._views]


class Block:
    """Arrays side by side in one allocation, each aligned to a cache line and padded to whole lines.

    ``memory()`` returns new memory, bytes; the first array begins at its next cache line.
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
        self.memory = bytes_allocation(self.size + LINE)
        self.views: list[View] = [(*place, None) for place in zip(self.shapes, self.offsets, strict=True)]

    def allocate(self) -> tuple[int, Sequence[np.ndarray]]:
        """Return the address of new memory, where the first array begins, and the views of it, uninitialized."""
        buffer = self.memory()
        return address(buffer) + start_of(buffer), self.arrays(buffer)

    @cached_property
    def arrays(self) -> Views:
        """The views of its memory."""
        return Views(self.dtype, self.views, self.size)


class Layout(NamedTuple):
    """The memory layout of a public array (features, m, T)."""

    strides: tuple[int, ...]
    time_major: bool  # already (T, m, features) in C order; else features or steps are contiguous


class Reading(NamedTuple):
    """How a job reads a public array."""

    layout: Layout
    change: Change | None


def reading(memory: Any, item: int) -> Reading:
    """Return how a job reads an array (features, m, T), given its `memory_of`, with `item` bytes a number."""
    (features, m, n_steps), strides, flags = memory
    if flags & _ALIGNED and flags & _F_CONTIGUOUS:
        return Reading(Layout((item, *strides[1:]), True), None)
    if flags & _ALIGNED and (features == 1 or item in (strides[0], strides[2]) or n_steps == 1):
        return Reading(Layout((item if features == 1 else strides[0], *strides[1:]), False), None)
    return Reading(Layout((item, features * item, features * m * item), True), _in_f_order)
