"""Where objects of CPython hold what compiled code reads, to save a call per object."""

import ctypes
import itertools
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.engines.cpu.codegen.entry import OWN, Offsets
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import immortal

# The items of a tuple, and NumPy's field `data`, follow the head that all objects have.
_ITEMS, DATA = tuple.__basicsize__, object.__basicsize__
_OFFSETS = Offsets(items=_ITEMS, data=DATA, content=bytes.__basicsize__ - 1)
_OF_PYTHON = {"make_bytes": "PyBytes_FromStringAndSize", "make_bool": "PyBool_FromLong"}
_ONE_ARGUMENT = 0x8  # the flag of methods of one argument


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


class _Method(ctypes.Structure):
    """Python's description of a function written in C."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_methods: dict[str, Any] = {}


def _method(name: str) -> Any:
    """Return a function of `codegen.entry` as a method: a call takes a fraction of ctypes' time, and keeps the GIL."""
    if name not in _methods:
        addresses: dict[str, Any] = {"array_type": id(np.ndarray), "tuple_type": id(tuple)}
        addresses |= {
            of: ctypes.cast(getattr(ctypes.pythonapi, c), ctypes.c_void_p).value for of, c in _OF_PYTHON.items()
        }
        own = np.array([addresses[of] for of in OWN], np.int64)
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        description = immortal(_Method(name.encode(), _functions()[name], _ONE_ARGUMENT, None))
        _methods[name] = make(("PyCFunction_NewEx", ctypes.pythonapi))(ctypes.addressof(description), own, None)
    return _methods[name]


@lru_cache(maxsize=2)
def enter(holds: bool) -> Callable[[tuple[np.ndarray, ...]], Any]:
    """Return the function `enter` of `codegen.entry`, which runs without the GIL unless it `holds` it."""
    if holds:
        return _method("enter_held")
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


def kinds_reader() -> Callable[[Any], bytes] | None:
    """Return a function that describes a tuple of arrays, as bytes: their dtypes, shapes, strides and flags.

    The bytes are empty for objects that are not arrays, or not of numbers. None if objects are not as expected here.
    """
    if not READABLE:
        return None
    read, samples = _method("kinds"), _samples()
    return read if read(samples) == b"".join(map(_described, samples)) else None


def _described(a: np.ndarray) -> bytes:
    """Return what the compiled function writes for an array."""
    head = struct.pack("=BHBi", a.ndim, a.dtype.num, ord(a.dtype.byteorder), a.flags.num)
    return head + struct.pack(f"={2 * a.ndim}q", *itertools.chain(*zip(a.shape, a.strides, strict=True)))
