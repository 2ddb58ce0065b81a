"""What was decided for a call, found again for the next call with arguments of the same kinds.

A call is checked in full once. What the checks, the choice of an engine and the engine itself then decide depends only
on the types of the arguments, on names, and on the dtypes, shapes and memory layouts of arrays. These make up the key,
so a call that is found differs from a checked one only in values. Only arrays of NumPy and CuPy are looked up: other
libraries' dtypes may not compare by value.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar

from rnnx._core import arrays as ns
from rnnx._core.arrays import INDEX, Array

T = TypeVar("T")

_MOST = 1024  # training sees few kinds of calls; sequences of all lengths, a few hundred
_in_memory: Any = attrgetter("dtype", "shape", "strides", "flags.num")
_on_device: Any = attrgetter("dtype", "shape", "data.device_id")


class Table(Generic[T]):
    """A bounded table of decisions. Threads may share it."""

    def __init__(self) -> None:
        self._found: dict[Any, T] = {}

    def find(self, key: Any) -> T | None:
        """Return what was added for a key; None for a key that is None or cannot be hashed."""
        try:
            return self._found.get(key)
        except TypeError:
            return None

    def add(self, key: Any, value: T) -> T:
        """Add and return a value, unless the key is None."""
        if key is not None:
            if len(self._found) >= _MOST:
                self._found.clear()  # a single step, unlike removing the oldest
            self._found[key] = value
        return value


def device_of(array: Any) -> int | None:
    """Return the number of the device of a CuPy array; None for anything else."""
    return array.data.device_id if {type(array)} == ns.only_cupy() else None


def is_index_vector(values: Any, device: int) -> bool:
    """Return whether values are a contiguous vector of int64 of CuPy, on a device."""
    return bool(device_of(values) == device and values.dtype == INDEX and values.strides == (INDEX.itemsize,))


Reader = Callable[[Any], bytes]
_reader: list[Reader] = []


def use_reader(reader: Reader) -> None:
    """From now on, describe tuples of NumPy's arrays by a faster function, which returns no bytes for others."""
    _reader[:] = [reader]


def kinds(arrays: Sequence[Array]) -> bytes | tuple[Any, ...] | None:
    """Return the part of a key that stands for arrays; None if they are not all NumPy's or all CuPy's."""
    for read in _reader:
        if found := read(tuple(arrays)):
            return found
    types = {*map(type, arrays)}
    if types <= ns.ONLY_NUMPY:
        return tuple(map(_in_memory, arrays))
    if types == ns.only_cupy():
        return tuple(map(_on_device, arrays))
    return None
