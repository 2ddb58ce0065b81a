"""Forward and backward pass of the course's character model over one name, on arrays with a row per step.

Only the recurrence runs step by step, compiled; the input side, the output layer, the loss and the gradients of the
weights take all steps at once.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx._core.checks import check_shape
from rnnx.course.recurrence import loops

KEYS = ("Wax", "Waa", "Wya", "b", "by")


class Pass(NamedTuple):
    """The arrays of a forward pass, one row per step."""

    x: np.ndarray  # (T, n_x), one-hot
    states: np.ndarray  # (T + 1, n_a), from a0
    y: np.ndarray  # (T, n_y): probabilities
    correct: np.ndarray  # (T, n_y): `Y`, one-hot


@np.errstate(under="ignore")
def forward_pass(
    X: Sequence[int | None],
    Y: Sequence[int | None],
    a0: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    vocab_size: int,
) -> tuple[float, Pass]:
    """Return the loss and the arrays of a pass over one example."""
    Wax, Waa, Wya, b, by = unpack(parameters)
    n_steps, n_a = len(X), len(Waa)
    if len(Y) != n_steps:
        raise ValueError(f"`X` and `Y` must have the same length; got {n_steps} and {len(Y)}")
    check_shape("Wax", Wax, "(n_a, vocab_size)", (n_a, vocab_size))
    check_shape("a0", a0, "(n_a, 1)", (n_a, 1))
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


@np.errstate(under="ignore")
def backward_pass(parameters: Mapping[str, np.ndarray], arrays: Pass) -> dict[str, np.ndarray]:
    """Return the gradients of a pass."""
    _, Waa, Wya, _, _ = unpack(parameters)
    x, states, y, correct = arrays
    dy = y - correct
    dz, da_next = dy @ Wya, np.zeros(len(Waa))
    loops()[1](dz, Waa, states, da_next)
    gradients = {"dWax": dz.T @ x, "dWaa": dz.T @ states[:-1], "dWya": dy.T @ states[1:]}
    return gradients | {"db": dz.sum(axis=0)[:, None], "dby": dy.sum(axis=0)[:, None], "da_next": da_next[:, None]}


def unpack(parameters: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return Wax, Waa, Wya, b and by."""
    try:
        return tuple(parameters[key] for key in KEYS)
    except KeyError as error:
        hint = "; the bias `ba` of rnnx is called `b` here" if "ba" in parameters else ""
        raise ValueError(f"`parameters` must have the keys {', '.join(KEYS)}; {error} is missing{hint}") from None


def one_hot_rows(name: str, characters: Sequence[int | None], vocab_size: int) -> np.ndarray:
    """Return the one-hot rows (T, vocab_size) of characters; None, in `X` only, is a row of zeros."""
    none = vocab_size if name == "X" else -1
    indices = [none if character is None else character for character in characters]
    try:
        rows = _rows(vocab_size).take(indices, axis=0)
        valid = min(indices, default=0) >= 0 and vocab_size not in characters
    except (TypeError, IndexError):
        valid = False
    if not valid:
        raise ValueError(
            f"`{name}` must hold indices from 0 to vocab_size - 1 = {vocab_size - 1}; got {list(characters)}"
        ) from None
    return rows


@lru_cache(maxsize=4)
def _rows(vocab_size: int) -> np.ndarray:
    return np.eye(vocab_size + 1, vocab_size)
