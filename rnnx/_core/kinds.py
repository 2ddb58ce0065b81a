"""What was decided for a call, found again for the next call with arguments of the same kinds.

A call is checked in full once. What the checks, the choice of an engine and the engine itself then decide depends only
on the types of the arguments, on names, and on the dtypes, shapes and memory layouts of arrays. These make up the key,
so a call that is found differs from a checked one only in values. Only NumPy arrays are looked up: other libraries'
dtypes and layouts may not compare by value.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np

from rnnx._core.arrays import Array

T = TypeVar("T")

_MOST = 1024  # training sees few kinds of calls; sequences of all lengths, a few hundred
_memory: Any = attrgetter("dtype", "shape", "strides", "flags.num")


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


def kinds(arrays: Iterable[Array]) -> tuple[Any, ...] | None:
    """Return the part of a key that stands for arrays; None if some are not NumPy arrays."""
    types = [*map(type, arrays)]
    if types.count(np.ndarray) < len(types):
        return None
    return tuple(map(_memory, arrays))
