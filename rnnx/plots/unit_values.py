"""Activations for plotting: (n_a, T) arrays of one example, selected units, color scales."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnx._core import checks
from rnnx.analysis.inspection import gate_values
from rnnx.functional.caches import Caches
from rnnx.plots import style

_SIGMOIDS = {
    "ft": "forget gate",
    "it": "input gate",
    "ot": "output gate",
    "ut": "update gate",
    "rt": "reset gate",
}
_SIGNED = {"cct": "candidate", "hct": "candidate, recurrent side", "a": "hidden state", "c": "cell state"}


_SYMBOLS = {"cct": r"$\tilde c_t$", "hct": "$h_t$", "a": "$a_t$", "c": "$c_t$"}


def symbol(name: str) -> str:
    """Return the symbol of a gate or state in the equations; those of other cells have their name."""
    return f"${name[0]}_t$" if name in _SIGMOIDS else _SYMBOLS.get(name, style.verbatim(name))


def describe(name: str) -> str:
    """Name a gate or state in words and by its symbol."""
    return f"{(_SIGMOIDS | _SIGNED).get(name, '')} {symbol(name)}".strip()


def arrays(values: Any, example: int) -> dict[str, np.ndarray]:
    """Return the gates and states of one example by name, each a NumPy array (n_a, T).

    Of caches, those that have as many units as the hidden state.
    """
    if isinstance(values, Caches):
        found = gate_values(values)
        n_a = found[values.cell.states[0]].shape[0]
        values = {name: array for name, array in found.items() if array.shape[0] == n_a}
    elif isinstance(values, tuple):
        values = gate_values(values)
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"`values` must be caches or a non-empty dict of arrays; got {type(values).__name__}")
    result: dict[str, np.ndarray] = {}
    for name, value in values.items():
        array = style.to_numpy(name, value)
        if array.ndim == 3:
            array = array[:, checks.integer("example", example, 0, array.shape[1] - 1), :]
        if array.ndim != 2 or 0 in array.shape:
            what = f"a non-empty array of shape (n_a, m, T) or (n_a, T); got shape {np.shape(value)}"
            raise ValueError(f"`{name}` must be {what}")
        result[name] = array
    shapes = {array.shape for array in result.values()}
    if len(shapes) > 1:
        raise ValueError(f"all arrays in `values` must have the same n_a and T; got (n_a, T) = {sorted(shapes)}")
    return result


def scale(name: str, array: np.ndarray) -> tuple[str, float, float]:
    """Return the color map and a range that does not depend on the text: 0 to 1 for gates, -1 to 1 for tanh values."""
    finite = array[np.isfinite(array)]
    low, high = finite.min(initial=0.0), finite.max(initial=0.0)
    if name in _SIGNED or low < 0:
        most = float(max(1.0, -low, high))
        return style.DIVERGING, -most, most
    return style.SEQUENTIAL, 0.0, float(max(1.0, high))


def most_varied(arrays: Mapping[str, np.ndarray], n: int) -> list[int]:
    """Return, in ascending order, the n units whose hidden state varies most over time; on a tie, the lower ones.

    The unbounded cell state would rank units that merely drift first. Without a hidden state, use the last array.
    """
    checks.integer("n_units", n)
    variance = arrays.get("a", list(arrays.values())[-1]).var(axis=1)
    return sorted(int(unit) for unit in np.argsort(-np.nan_to_num(variance, nan=-1.0), kind="stable")[:n])
