"""Checks of the arguments of the course's character model."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import Shape, compare_shapes, listed

KEYS = ("Wax", "Waa", "Wya", "b", "by")
GRADIENTS = tuple("d" + key for key in KEYS)
_FLOAT64, _INT64 = np.dtype("float64"), np.dtype("int64")
_LISTS = (list, tuple, range, np.ndarray)
_COLUMNS = {
    "a0": "n_a",
    "da_next": "n_a",
    "a_prev": "n_a",
    "a": "n_a",
    "x": "n_x",
    "dy": "n_y",
}  # and their numbers of rows


def unpack(parameters: Mapping[str, np.ndarray], **columns: np.ndarray) -> list[np.ndarray]:
    """Return columns such as `a0`, and Wax, Waa, Wya, b and by, as the compiled loops take them.

    Their types and shapes are checked before.
    """
    given = pick("parameters", parameters, KEYS, "; the bias `ba` of rnnx is called `b` here")
    arrays = [*columns.values(), *given.values()]
    if not are_usual(arrays):
        arrays = [as_usual(array) for array in as_floats(columns, given)]
    _check_shapes((*columns, *KEYS), tuple([array.shape for array in arrays]))
    return arrays


def are_usual(arrays: Iterable[np.ndarray]) -> bool:
    """Return whether the compiled loops take these arrays as they are: float64, in C order, writeable."""
    for array in arrays:
        if type(array) is not np.ndarray or array.dtype is not _FLOAT64 or not array.flags.carray:
            return False
    return True


def as_usual(array: np.ndarray) -> np.ndarray:
    """Return an array as the compiled loops take it: itself, or a copy."""
    return array if are_usual((array,)) else np.array(array, np.float64, order="C")


def pick(owner: str, arrays: Mapping[str, np.ndarray], keys: Sequence[str], hint: str = "") -> dict[str, np.ndarray]:
    """Return the arrays with these keys; the hint is for those who pass `ba`."""
    try:
        return {key: arrays[key] for key in keys}
    except KeyError as error:
        hint = hint if "ba" in arrays else ""
        raise ValueError(f"`{owner}` must have the keys {', '.join(keys)}; {error} is missing{hint}") from None


def pick_gradients(
    gradients: Mapping[str, np.ndarray], parameters: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the arrays of both after checking that dWax, dWaa, dWya, db and dby have the shapes of the parameters."""
    given, picked = pick("parameters", parameters, KEYS), pick("gradients", gradients, GRADIENTS)
    if not are_usual((*given.values(), *picked.values())):
        as_floats({}, {**given, **picked})
    if [array.shape for array in picked.values()] != [array.shape for array in given.values()]:
        for key, array in given.items():
            compare_shapes("d" + key, picked["d" + key].shape, f"{key}.shape", array.shape)
    return given, picked


def check_writeable(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise unless arrays can be changed in place."""
    for name, array in arrays.items():
        if not array.flags.writeable:
            raise ValueError(f"`{name}` is changed in place, so it must be writeable; got a read-only array")


def as_floats(data: Mapping[str, np.ndarray], parameters: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Check NumPy arrays as `rnnx._core.arrays.as_floats` does."""
    _, _, arrays = ns.as_floats(data, parameters)
    if type(arrays[0]) is not np.ndarray and not ns.is_on_host(arrays[0]):
        name = next(iter((*data, *parameters)))
        raise TypeError(f"`{name}` must be a NumPy array; got one of another library")
    return arrays


@lru_cache(maxsize=64)  # errors are not cached
def _check_shapes(names: tuple[str, ...], shapes: tuple[Shape, ...]) -> None:
    actual = dict(zip(names, shapes, strict=True))
    for key in ("Wax", "Wya"):  # they have the sizes
        if len(actual[key]) != 2:
            raise ValueError(f"`{key}` must have 2 dimensions; got shape {actual[key]}")
    (n_a, n_x), (n_y, _) = actual["Wax"], actual["Wya"]
    sizes = {"n_a": n_a, "n_x": n_x, "n_y": n_y, "1": 1}
    axes = {"Waa": ("n_a", "n_a"), "Wya": ("n_y", "n_a"), "b": ("n_a", "1"), "by": ("n_y", "1")}
    axes |= {name: (rows, "1") for name, rows in _COLUMNS.items() if name in actual}
    for name, (rows, columns) in axes.items():
        compare_shapes(name, actual[name], f"({rows}, {columns})", (sizes[rows], sizes[columns]))


def count_steps(X: Sequence[int | None], Y: Sequence[int | None]) -> int:
    """Return the length of `X` and `Y`, which must be equal."""
    for name, characters in (("X", X), ("Y", Y)):
        if type(characters) is list:  # in nearly every call
            continue
        is_list = isinstance(characters, _LISTS) and getattr(characters, "ndim", 1) == 1
        if not is_list or isinstance(characters, np.ma.MaskedArray):
            raise TypeError(f"`{name}` must be a list of indices; got {type(characters).__name__}")
    if len(X) != len(Y):
        raise ValueError(f"`X` and `Y` must have the same length; got {len(X)} and {len(Y)}")
    return len(X)


def indices(name: str, characters: Sequence[int | None], vocab_size: int) -> np.ndarray:
    """Return characters as an array (T,) of indices; None, in `X` only, is `vocab_size`."""
    given: Any = characters
    stop = vocab_size
    if name == "X":
        given, stop = [vocab_size if character is None else character for character in characters], vocab_size + 1
    try:
        array = np.array(given, None if len(given) else np.int64)
        valid = array.dtype.kind in "iu" and array.ndim == 1 and vocab_size not in characters
        valid = valid and min(given, default=0) >= 0 and max(given, default=0) < stop
    except (TypeError, ValueError):
        valid = False
    if not valid:
        got = listed(list(characters))
        raise ValueError(f"`{name}` must hold indices from 0 to vocab_size - 1 = {vocab_size - 1}; got {got}")
    return array if array.dtype is _INT64 else array.astype(np.int64)
