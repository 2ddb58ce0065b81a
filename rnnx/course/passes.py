"""The compiled functions of the course's character model on checked arguments: forward, backward, clip and update."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx._core.checks import compare_shapes, integer
from rnnx.course import recurrence
from rnnx.course.arguments import GRADIENTS, are_usual, as_usual, check_writeable, count_steps, indices, unpack


class Pass(NamedTuple):
    """The arrays of a forward pass, one row per step."""

    x: np.ndarray  # (T, n_x), one-hot
    states: np.ndarray  # (T + 1, n_a), from a0
    y: np.ndarray  # (T, n_y): probabilities
    targets: np.ndarray  # (T,): `Y`


def forward_pass(
    X: Sequence[int | None],
    Y: Sequence[int | None],
    initial: Mapping[str, np.ndarray],
    parameters: Mapping[str, np.ndarray],
    vocab_size: int | None = None,
) -> tuple[float, Pass, list[np.ndarray]]:
    """Return the loss, the arrays of a pass over one example, and the five parameters, as `unpack` does.

    `initial` is the initial state, by the name of the argument. `vocab_size` is by default that of the parameters.
    """
    a0, *weights = unpack(parameters, **initial)
    Wax, _, Wya, b, by = weights
    n_steps, n_a = count_steps(X, Y), len(b)
    if type(vocab_size) is not int:
        vocab_size = len(by) if vocab_size is None else integer("vocab_size", vocab_size)
    compare_shapes("Wax", Wax.shape, "(n_a, vocab_size)", (n_a, vocab_size))
    compare_shapes("Wya", Wya.shape, "(vocab_size, n_a)", (vocab_size, n_a))
    inputs, targets = indices("X", X, vocab_size), indices("Y", Y, vocab_size)
    states, y = np.empty((n_steps + 1, n_a)), np.empty((n_steps, vocab_size))
    states[0] = a0[:, 0]
    forward, _ = recurrence.passes()
    loss = forward(inputs, targets, *weights, states, y)
    x = _one_hot_rows(vocab_size)[inputs]
    return np.float64(loss), Pass(x, states, y, targets), weights


def backward_pass(Waa: np.ndarray, Wya: np.ndarray, arrays: Pass) -> dict[str, np.ndarray]:
    """Return the gradients of a pass; all arrays are as `unpack` returns them."""
    x, states, y, targets = arrays
    n_a, n_y, n_x = len(Waa), len(Wya), x.shape[1]
    shapes = (n_a, n_x), (n_a, n_a), (n_y, n_a), (n_a, 1), (n_y, 1), (n_a, 1)
    gradients = [np.zeros(shape) for shape in shapes]
    _, backward = recurrence.passes()
    backward(x, targets, Waa, Wya, states, y.copy(), np.empty((len(y), n_a)), *gradients)
    return dict(zip((*GRADIENTS, "da_next"), gradients, strict=True))


def clip_arrays(gradients: Mapping[str, np.ndarray], limit: float) -> None:
    """Clip arrays to [-limit, limit] in place."""
    clip, _ = recurrence.updates()
    _change(clip, gradients, limit)


def update_arrays(parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray], lr: float) -> None:
    """Take one step of gradient descent in place; `gradients` has the same keys in the same order, with a leading d."""
    _, update = recurrence.updates()
    _change(update, parameters, tuple([as_usual(array).reshape(-1) for array in gradients.values()]), lr)


def _change(function: Callable[..., None], arrays: Mapping[str, np.ndarray], *arguments: Any) -> None:
    """Call a compiled function that changes arrays, flat, in place."""
    values = arrays.values()
    if are_usual(values):
        function(tuple([array.reshape(-1) for array in values]), *arguments)
        return
    check_writeable(arrays)
    copies = {name: as_usual(array) for name, array in arrays.items()}
    _change(function, copies, *arguments)
    with np.errstate(under="ignore"):
        for name, array in arrays.items():
            array[...] = copies[name]


@lru_cache(maxsize=4)
def _one_hot_rows(vocab_size: int) -> np.ndarray:
    return np.eye(vocab_size + 1, vocab_size)
