"""Buffer pool for large arrays, which avoids page faults (up to a third of a training step).

A buffer is free when only the pool refers to it. Views hold references, so memory in use is never handed out.
"""

import ctypes
import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

_SMALLEST = 1 << 17  # bytes; malloc keeps smaller arrays in its heap
_LARGEST = 1 << 28  # bytes
_KEPT = 1 << 29  # bytes in the pool, at most

_WORKSPACE = 1 << 26  # bytes of workspace kept per thread, at most
LINE = 64  # bytes of a cache line
_BYTE: Any = ctypes.c_char
T = TypeVar("T")

# A finalizer or signal handler may run, and make arrays, while its own thread changes the pool. The lock lets it in,
# and `_busy` makes it bypass the pool.
_lock = threading.RLock()
_busy = False
_buffers: list[np.ndarray] = []


def _unlock() -> None:
    """Replace the lock in the child of a fork, where its holder does not exist."""
    global _lock, _busy
    _lock, _busy = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


# The reference count, as `map` sees it, of an array that only a list refers to. Without counts, nothing is pooled.
_COUNTS = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()
_FREE = next(map(sys.getrefcount, [np.empty(1, np.uint8)])) if _COUNTS else -1


def immortal(owner: T) -> T:
    """Keep the owner of memory until the process ends: threads and methods use it even when modules are cleared."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    return owner


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


def aligned(size: int, *, pooled: bool = True) -> np.ndarray:
    """Return `size` bytes from the beginning of a cache line on; `pooled`: of a free buffer if possible."""
    _, buffer, start = aligned_at(size, pooled=pooled)
    return buffer[start : start + size]


class Memory(NamedTuple):
    """Memory from the beginning of a cache line on: its address, a buffer, and where it starts in the buffer."""

    address: int
    buffer: np.ndarray
    start: int


def aligned_at(size: int, *, pooled: bool = True) -> Memory:
    """Return `size` bytes as `aligned` does."""
    buffer = _pooled(size + LINE) if pooled and is_pooled(size) else np.empty(size + LINE, np.uint8)
    at = address(buffer)
    start = -at % LINE
    return Memory(at + start, buffer, start)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Like `numpy.empty`, in a free buffer if possible. Large arrays are aligned to a cache line."""
    return allocation(shape, np.dtype(dtype))()


def allocation(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    """Return a function that makes arrays as `empty` does."""
    size = math.prod(shape) * dtype.itemsize
    return partial(_in_buffer, shape, dtype, size) if is_pooled(size) else partial(np.empty, shape, dtype)


def bytes_allocation(size: int) -> Callable[[], np.ndarray]:
    """Return a function that makes arrays of at least `size` bytes, free buffers if possible."""
    return partial(_pooled, size) if is_pooled(size) else partial(np.empty, size, np.uint8)


def is_pooled(size: int) -> bool:
    """Return whether arrays of this size come from the pool."""
    return _COUNTS and _SMALLEST <= size <= _LARGEST


def _in_buffer(shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
    buffer = _pooled(size + LINE)
    return np.ndarray(shape, dtype, buffer, start_of(buffer))


def start_of(buffer: np.ndarray) -> int:
    """Return the number of bytes before the next cache line in a buffer of bytes."""
    return -ctypes.addressof(_BYTE.from_buffer(buffer)) % LINE


def _pooled(size: int) -> np.ndarray:
    """Return a buffer of the pool, or a new one inside another call of this function in the same thread."""
    global _busy
    with _lock:
        if _busy:
            return np.empty(size, np.uint8)
        _busy = True
        try:
            return _take(size)
        finally:
            _busy = False


def _take(size: int) -> np.ndarray:
    """Return the smallest free buffer of `size` bytes to twice as many, or a new one. They are ordered by last use."""
    counts = [*map(sys.getrefcount, _buffers)]
    fitting = [i for i, b in enumerate(_buffers) if counts[i] == _FREE and size <= b.nbytes <= 2 * size]
    if fitting:
        _buffers.append(_buffers.pop(min(reversed(fitting), key=lambda i: _buffers[i].nbytes)))
        return _buffers[-1]
    held, kept = sum(b.nbytes for b in _buffers) + size, []
    for b, count in zip(_buffers, counts, strict=True):
        if held > _KEPT and count == _FREE:
            held -= b.nbytes
        else:
            kept.append(b)
    _buffers[:] = kept
    buffer = np.empty(size, np.uint8)
    if held <= _KEPT:  # else too much is in use: do not pool this one
        _buffers.append(buffer)
    return buffer


class _Local(threading.local):
    workspace: Memory | None = None


_local = _Local()


def take_workspace(size: int) -> Memory:
    """Return `size` uninitialized bytes, to be given back. Each thread keeps up to 64 MB for its next call, the pool
    more.
    """
    if size > _WORKSPACE:
        return aligned_at(size)
    kept, _local.workspace = _local.workspace, None  # it is None inside another call
    if kept is None or len(kept.buffer) < size + LINE:
        return aligned_at(size, pooled=False)
    return kept


def give_back_workspace(memory: Memory) -> None:
    """End the use of a workspace."""
    if len(memory.buffer) <= _WORKSPACE + LINE:
        _local.workspace = memory
