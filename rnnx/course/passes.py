"""Forward and backward pass of the course's character model over one name, on arrays with a row per step.

Only the recurrence runs step by step, compiled; the input side, the output layer, the loss and the gradients of the
weights take all steps at once.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import Shape, compare_shapes, integer, listed
from rnnx.course.recurrence import loops

KEYS = ("Wax", "Waa", "Wya", "b", "by")
_ONLY_NUMPY, _ONLY_FLOAT64 = {np.ndarray}, {np.dtype("float64")}
GRADIENTS = tuple("d" + key for key in KEYS)
_LISTS = (list, tuple, range, np.ndarray)
_COLUMNS = {
    "a0": "n_a",
    "da_next": "n_a",
    "a_prev": "n_a",
    "a": "n_a",
    "x": "n_x",
    "dy": "n_y",
}  # and their numbers of rows


class Pass(NamedTuple):
    """The arrays of a forward pass, one row per step."""

    x: np.ndarray  # (T, n_x), one-hot
    states: np.ndarray  # (T + 1, n_a), from a0
    y: np.ndarray  # (T, n_y): probabilities
    correct: np.ndarray  # (T, n_y): `Y`, one-hot


def forward_pass(
    X: Sequence[int | None],
    Y: Sequence[int | None],
    initial: Mapping[str, np.ndarray],
    parameters: Mapping[str, np.ndarray],
    vocab_size: int | None = None,
) -> tuple[float, Pass]:
    """Return the loss and the arrays of a pass over one example.

    `initial` is the initial state, by the name of the argument. `vocab_size` is by default that of the parameters.
    """
    a0, Wax, Waa, Wya, b, by = unpack(parameters, **initial)
    n_steps, n_a = count_steps(X, Y), len(Waa)
    if type(vocab_size) is not int:
        vocab_size = len(by) if vocab_size is None else integer("vocab_size", vocab_size)
    compare_shapes("Wax", Wax.shape, "(n_a, vocab_size)", (n_a, vocab_size))
    compare_shapes("Wya", Wya.shape, "(vocab_size, n_a)", (vocab_size, n_a))
    x, correct = one_hot_rows("X", X, vocab_size), one_hot_rows("Y", Y, vocab_size)
    states = np.empty((n_steps + 1, n_a))
    states[0] = a0[:, 0]
    loops()[0](x @ Wax.T + b[:, 0], Waa, states)
    logits = states[1:] @ Wya.T + by[:, 0]
    logits -= logits.max(axis=1, keepdims=True)
    y = np.exp(logits)
    total = y.sum(axis=1, keepdims=True)
    y /= total
    return np.log(total).sum() - (logits * correct).sum(), Pass(x, states, y, correct)


def backward_pass(Waa: np.ndarray, Wya: np.ndarray, arrays: Pass) -> dict[str, np.ndarray]:
    """Return the gradients of a pass."""
    x, states, y, correct = arrays
    dy = y - correct
    dz, da_next = dy @ Wya, np.zeros(len(Waa))
    loops()[1](dz, Waa, states, da_next)
    gradients = {"dWax": dz.T @ x, "dWaa": dz.T @ states[:-1], "dWya": dy.T @ states[1:]}
    return gradients | {"db": dz.sum(axis=0)[:, None], "dby": dy.sum(axis=0)[:, None], "da_next": da_next[:, None]}


def unpack(parameters: Mapping[str, np.ndarray], **columns: np.ndarray) -> list[np.ndarray]:
    """Return columns such as `a0`, and Wax, Waa, Wya, b and by, after checking their types and shapes."""
    try:
        arrays = [*columns.values(), *[parameters[key] for key in KEYS]]
        usual = {*map(type, arrays)} == _ONLY_NUMPY and {array.dtype for array in arrays} == _ONLY_FLOAT64
    except KeyError:
        usual = False
    if not usual:
        given = pick("parameters", parameters, KEYS, "; the bias `ba` of rnnx is called `b` here")
        arrays = as_floats(columns, given)
    _check_shapes((*columns, *KEYS), tuple([array.shape for array in arrays]))
    return arrays


def pick(owner: str, arrays: Mapping[str, np.ndarray], keys: Sequence[str], hint: str = "") -> dict[str, np.ndarray]:
    """Return the arrays with these keys; the hint is for those who pass `ba`."""
    try:
        return {key: arrays[key] for key in keys}
    except KeyError as error:
        hint = hint if "ba" in arrays else ""
        raise ValueError(f"`{owner}` must have the keys {', '.join(keys)}; {error} is missing{hint}") from None


def pick_gradients(gradients: Mapping[str, np.ndarray], parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return dWax, dWaa, dWya, db and dby after checking that they have the shapes of the parameters."""
    given, picked = pick("parameters", parameters, KEYS), pick("gradients", gradients, GRADIENTS)
    as_floats({}, {**given, **picked})
    if [array.shape for array in picked.values()] != [array.shape for array in given.values()]:
        for key, array in given.items():
            compare_shapes("d" + key, picked["d" + key].shape, f"{key}.shape", array.shape)
    return picked


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


def one_hot_rows(name: str, characters: Sequence[int | None], vocab_size: int) -> np.ndarray:
    """Return the one-hot rows (T, vocab_size) of characters; None, in `X` only, is a row of zeros."""
    none = vocab_size if name == "X" else -1
    indices = [none if character is None else character for character in characters]
    try:
        array = np.array(indices, None if indices else np.int64)
        rows = _rows(vocab_size).take(array, axis=0)
        valid = array.dtype.kind in "iu" and min(indices, default=0) >= 0 and vocab_size not in characters
    except (TypeError, ValueError, IndexError):
        valid = False
    if not valid:
        got = listed(list(characters))
        raise ValueError(f"`{name}` must hold indices from 0 to vocab_size - 1 = {vocab_size - 1}; got {got}") from None
    return rows


@lru_cache(maxsize=4)
def _rows(vocab_size: int) -> np.ndarray:
    return np.eye(vocab_size + 1, vocab_size)
