"""Where objects of CPython hold what compiled code reads, to save a call per object."""

import ctypes
import itertools
import struct
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.engines.cpu.codegen.entry import Offsets
from rnnx.engines.cpu.runtime import object_cache

# The items of a tuple, and NumPy's field `data`, follow the head that all objects have.
_ITEMS, DATA = tuple.__basicsize__, object.__basicsize__
_OFFSETS = Offsets(items=_ITEMS, data=DATA, content=bytes.__basicsize__ - 1)
_MAKE_BYTES = ctypes.cast(ctypes.pythonapi.PyBytes_FromStringAndSize, ctypes.c_void_p).value or 0


def address_of_items(objects: tuple[np.ndarray, ...]) -> int:
    """Return the address of the addresses of a tuple's items."""
    return id(objects) + _ITEMS


def _samples() -> tuple[np.ndarray, ...]:
    whole = np.zeros((3, 4))
    halves = np.zeros((2, 1, 3), ">f2", order="F")
    return whole, whole[1:, ::2], whole.T[1:], np.zeros(()), halves, np.zeros((0, 2), bool)


def _are_readable() -> bool:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    arrays = _samples()
    items = np.frombuffer(ctypes.string_at(address_of_items(arrays), 8 * len(arrays)), np.uintp)
    data = [np.frombuffer(ctypes.string_at(id(a) + DATA, 8), np.uintp)[0] for a in arrays]
    return items.tolist() == [*map(id, arrays)] and data == [a.ctypes.data for a in arrays]


READABLE = ctypes.sizeof(ctypes.c_void_p) == 8 and _are_readable()


@lru_cache(maxsize=1)
def _functions() -> Any:
    return object_cache.emitted_by("codegen.entry", "emit_entry", np.dtype(np.float64), *_OFFSETS)


@lru_cache(maxsize=1)
def enter() -> Callable[[tuple[np.ndarray, ...]], None]:
    """Return the function `enter` of `codegen.entry`, which runs without the GIL."""
    return ctypes.CFUNCTYPE(None, ctypes.py_object)(_functions()["enter"])


@lru_cache(maxsize=1)
def address_writer() -> Callable[[tuple[np.ndarray, ...], int], None] | None:
    """Return a function of (table, *arrays) and a width, which writes addresses to a table of integers.

    A row of the table has a number, which stays, and the addresses of `width` arrays. None if objects are not as
    expected here.
    """
    if not READABLE:
        return None
    return ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_int64)(_functions()["addresses"])


def kinds_reader() -> Callable[[Sequence[Any]], bytes] | None:
    """Return a function that describes arrays, as bytes: their dtypes, shapes, strides and flags.

    The bytes are empty for objects that are not arrays, or not of numbers. None if objects are not as expected here.
    """
    if not READABLE:
        return None
    table = np.array([id(np.ndarray), _MAKE_BYTES], np.int64)
    function: Any = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(_functions()["kinds"])

    def read(arrays: Sequence[Any]) -> bytes:
        found: bytes = function((table, *arrays))
        return found

    samples = _samples()
    return read if read(samples) == b"".join(map(_described, samples)) else None


def _described(a: np.ndarray) -> bytes:
    """Return what the compiled function writes for an array."""
    head = struct.pack("=BHBi", a.ndim, a.dtype.num, ord(a.dtype.byteorder), a.flags.num)
    return head + struct.pack(f"={2 * a.ndim}q", *itertools.chain(*zip(a.shape, a.strides, strict=True)))
