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
from typing import Any, NamedTuple

import numpy as np

_SMALLEST = 1 << 17  # bytes; malloc keeps smaller arrays in its heap
_LARGEST = 1 << 26  # bytes; page faults do not matter for larger arrays
_KEPT = 1 << 28  # bytes in the pool, at most

_WORKSPACE = 1 << 26  # bytes of workspace kept per thread, at most
LINE = 64  # bytes of a cache line
_BYTE: Any = ctypes.c_char

# A finalizer or signal handler may run, and make arrays, while its own thread changes the pool. The lock lets it in,
# and `_busy` makes it bypass the pool.
_lock = threading.RLock()
_busy = False
_local = threading.local()
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
    pooled = pooled and _COUNTS and _SMALLEST <= size <= _LARGEST
    buffer = _pooled(size + LINE) if pooled else np.empty(size + LINE, np.uint8)
    at = address(buffer)
    start = -at % LINE
    return Memory(at + start, buffer, start)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Like `numpy.empty`, in a free buffer if possible. Large arrays are aligned to a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not (_COUNTS and _SMALLEST <= size <= _LARGEST):
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, aligned(size))


def allocation(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    """Return a function that makes arrays as `empty` does."""
    pooled = _COUNTS and _SMALLEST <= math.prod(shape) * dtype.itemsize <= _LARGEST
    return partial(empty if pooled else np.empty, shape, dtype)


def start_of(buffer: np.ndarray) -> int:
    """Return the number of bytes before the next cache line."""
    return -address(buffer) % LINE


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
    """Return a free buffer of at least `size` bytes. Buffers are ordered by last use."""
    counts = [*map(sys.getrefcount, _buffers)]
    for i in range(len(counts) - 1, -1, -1):
        if counts[i] == _FREE and size <= _buffers[i].nbytes <= 2 * size:
            _buffers.append(_buffers.pop(i))
            return _buffers[-1]
    held = sum(b.nbytes for b in _buffers) + size
    for i in range(len(counts) - 1, -1, -1):  # backwards, so that earlier indices stay valid
        if held <= _KEPT:
            break
        if counts[i] == _FREE:
            held -= _buffers.pop(i).nbytes
    buffer = np.empty(size, np.uint8)
    if held <= _KEPT:  # else too much is in use: do not pool this one
        _buffers.append(buffer)
    return buffer


class workspace:
    """Context manager for `size` bytes of uninitialized, cache-aligned memory; yields their address.

    Each thread keeps up to 64 MB for its next call.
    """

    def __init__(self, size: int) -> None:
        self._keep = size <= _WORKSPACE
        self._kept: Memory | None = _local.__dict__.pop("workspace", None)  # None inside another one
        self._memory = self._kept
        if self._memory is None or self._memory.buffer.nbytes < size + LINE:
            self._memory = aligned_at(size, pooled=not self._keep)

    def __enter__(self) -> int:
        return self._memory.address

    def __exit__(self, *_: object) -> None:
        _local.workspace = self._memory if self._keep else self._kept
