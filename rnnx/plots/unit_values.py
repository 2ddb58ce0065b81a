"""Activations as the pictures of them need them: arrays (n_a, T) of one example, units, and colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx.analysis.inspection import gate_values
from rnnx.functional.caches import Caches
from rnnx.plots import style

_NAMES = {
    "ft": "forget gate",
    "it": "input gate",
    "ot": "output gate",
    "ut": "update gate",
    "rt": "reset gate",
    "cct": "candidate",
    "hct": "candidate, recurrent side",
    "a": "hidden state",
    "c": "cell state",
}
_SIGMOIDS = {"ft", "it", "ot", "ut", "rt"}
_SIGNED = {"cct", "hct", "a", "c"}


def describe(name: str) -> str:
    """The name of a gate or state in words and as in the equations."""
    return f"{_NAMES[name]} {name}" if name in _NAMES else name


def arrays(values: Any, example: int) -> dict[str, np.ndarray]:
    """What is to be drawn of one example, each (n_a, T), on the host."""
    if isinstance(values, Caches | tuple):
        values = gate_values(values)
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"`values` must be caches, or a dict of arrays by name; got {type(values).__name__}")
    result: dict[str, np.ndarray] = {}
    for name, value in values.items():
        array = style.to_numpy(name, value)
        if array.ndim == 3:
            if not 0 <= example < array.shape[1]:
                raise ValueError(f"`example` must be from 0 to m - 1 = {array.shape[1] - 1}; got {example}")
            array = array[:, example, :]
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"`{name}` must have shape (n_a, m, T) or (n_a, T), none of them 0; got {value.shape}")
        result[name] = array
    shapes = {array.shape for array in result.values()}
    if len(shapes) > 1:
        raise ValueError(f"`values` must be of as many units and steps each; got {sorted(shapes)}")
    return result


def scale(name: str, array: np.ndarray) -> tuple[str, float, float]:
    """Colours and their range, the same for all texts: 0 to 1 for a gate, -1 to 1 for what a tanh bounds."""
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    signed = name in _SIGNED or (name not in _SIGMOIDS and low < 0)
    if signed:
        most = max(1.0, -low, high)
        return style.DIVERGING, -most, most
    return style.SEQUENTIAL, 0.0, max(1.0, high)


def most_varied(arrays: Mapping[str, np.ndarray], n: int) -> list[int]:
    """Numbers of the n units whose hidden state (without one: whose last array) has the largest variance over time.

    Not the cell state: it has no bound, and a unit that only drifts away would come first. In rising order; of equal
    ones the lower number wins.
    """
    check_positive("n_units", n)
    variance = arrays.get("a", list(arrays.values())[-1]).var(axis=1)
    return sorted(int(unit) for unit in np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable")[:n])


def characters(text: Sequence[str] | None, n_steps: int) -> Sequence[str] | None:
    """The text, if it has a character for each step."""
    if text is not None and len(text) != n_steps:
        raise ValueError(f"`text` must have {n_steps} characters, one for each step; got {len(text)}")
    return text


def check_units(units: Sequence[int], n_a: int) -> list[int]:
    """The units, if they are there."""
    rows = [int(unit) for unit in units]
    if not rows or min(rows) < 0 or max(rows) >= n_a:
        raise ValueError(f"`units` must be numbers from 0 to n_a - 1 = {n_a - 1}, at least one; got {rows}")
    return rows


def check_positive(name: str, size: Any) -> None:
    """Raise unless `size` is an integer of at least 1."""
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1; got {size!r}")
