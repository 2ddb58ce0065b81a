"""Large arrays from memory that is used again: fresh memory costs a page fault for every 4 KB, which is up to
a third of a training step.

A buffer is free when nothing but the pool refers to it. Every view of it, in our caches or in the caller's
hands, counts as a reference, so memory that somebody can still see is never given out again.
"""

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

_SMALLEST = 1 << 16  # bytes; below, the C library does the same
_LARGEST = 1 << 26  # larger ones take so long to fill that the faults do not count
_KEPT = 1 << 28  # bytes the pool holds at most

_WORKSPACE = 1 << 26  # bytes of a thread's workspace that are kept at most
LINE = 64  # bytes of a cache line

_lock = threading.Lock()
_local = threading.local()
_buffers: list[np.ndarray] = []


def _unlock() -> None:
    """The child of a fork has the lock of a thread that it does not have."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def _references(buffers: list[np.ndarray], i: int) -> int:
    return sys.getrefcount(buffers[i])


# What an interpreter counts for an array that only a list holds; without such counts nothing is used again.
_COUNTS = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()
_FREE = _references([np.empty(1, np.uint8)], 0) if _COUNTS else -1


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As np.empty, from a free buffer if there is one; large arrays begin a cache line."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not (_COUNTS and _SMALLEST <= size <= _LARGEST):
        return np.empty(shape, dtype)
    with _lock:
        buffer = _take(size + LINE)
    shift = -int(buffer.ctypes.data) % LINE
    return buffer[shift : shift + size].view(dtype).reshape(shape)


def _take(size: int) -> np.ndarray:
    """A buffer of at least `size` bytes that nobody uses; the last one used stands last."""
    free = [i for i in range(len(_buffers)) if _references(_buffers, i) == _FREE]
    fitting = [i for i in free if size <= _buffers[i].nbytes <= 2 * size]
    if fitting:
        buffer = _buffers.pop(fitting[-1])
    else:
        held = sum(b.nbytes for b in _buffers) + size
        for i in reversed(free):  # from behind, so that the places before stay right
            if held <= _KEPT:
                break
            held -= _buffers.pop(i).nbytes
        buffer = np.empty(size, np.uint8)
        if held > _KEPT:  # all in use: this one is not ours to keep
            return buffer
    _buffers.append(buffer)
    return buffer


@contextlib.contextmanager
def workspace(size: int) -> Iterator[int]:
    """The address of `size` bytes that a call needs until it returns; the next call of this thread has the same.

    What is in them is left over. The largest that was asked for is kept, up to 64 MB.
    """
    kept: np.ndarray | None = _local.__dict__.pop("workspace", None)
    memory = kept
    if memory is None or memory.nbytes < size + LINE:
        memory = np.empty(size + LINE, np.uint8) if size <= _WORKSPACE else empty((size + LINE,), np.uint8)
    address = int(memory.ctypes.data)
    try:
        yield address + -address % LINE
    finally:
        _local.workspace = memory if size <= _WORKSPACE else kept
