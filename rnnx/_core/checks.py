"""Checks made before any work, and every message about them that a user can meet.

Symbols: m examples, T_x time steps.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array

Shape = tuple[int, ...]


def nearest(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name; of several equally near ones the first."""
    names = list(known)

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, key, name).ratio()

    best = max(names, key=likeness)
    return f"; did you mean {best!r}?" if likeness(best) > 0.3 else f"; known are {names}"


def check_shape(name: str, array: Array, symbols: str, shape: Shape) -> None:
    """Raise unless the array has this shape; the message gives it in symbols and in numbers."""
    compare_shapes(name, tuple(array.shape), symbols, shape)


def compare_shapes(name: str, actual: Shape, symbols: str, shape: Shape) -> None:
    """Raise unless the two shapes are equal; the message names the argument."""
    if actual != shape:
        raise ValueError(f"`{name}` must have shape {symbols} = {shape}; got {actual}")


def check_lengths(xp: Any, device: Any, lengths: Any, m: int, n_steps: int) -> Array:
    """`lengths` as an integer array of shape (m,) with values from 0 to T_x."""
    array = ns.integer_vector(xp, device, "lengths", lengths)
    check_shape("lengths", array, "(m,)", (m,))
    # Those of a host are looked at there. To fetch those of a device would wait for it: past the end is then T_x.
    if m and isinstance(lengths, Sequence | np.ndarray):
        values = np.asarray(lengths)
        if values.min() < 0 or values.max() > n_steps:
            raise ValueError(f"`lengths` must be from 0 to T_x = {n_steps}; got {values.min()} to {values.max()}")
    return array
