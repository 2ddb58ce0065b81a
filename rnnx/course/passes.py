"""The compiled functions of the course's character model on checked arguments: forward, backward, clip and update."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx import engines
from rnnx._core.checks import compare_shapes, integer
from rnnx.course import recurrence
from rnnx.course.arguments import GRADIENTS, are_usual, as_usual, check_writeable, count_steps, indices, unpack
from rnnx.engines.operations import Numbers, Rule
from rnnx.optim.clipping import clipped
from rnnx.optim.optimizers import SGD


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
    x = _one_hot_rows(vocab_size).take(inputs, axis=0)
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
    _change(clipped, {"most": limit}, gradients)


def update_arrays(parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray], lr: float) -> None:
    """Take one step of gradient descent in place; `gradients` has the same keys in the same order, with a leading d."""
    _change(SGD.rule, {"rate": lr}, parameters, [as_usual(array) for array in gradients.values()])


def _change(rule: Rule, numbers: Numbers, arrays: Mapping[str, np.ndarray], *others: Sequence[np.ndarray]) -> None:
    """Replace arrays, in place, by what a rule computes from them and others of the same shapes."""
    values = arrays.values()
    if are_usual(values):
        rows = [*zip(values, *others, strict=True)]
        engines.operations(np).elementwise(rule, numbers, rows, [row[:1] for row in rows])
        return
    check_writeable(arrays)
    copies = {name: as_usual(array) for name, array in arrays.items()}
    _change(rule, numbers, copies, *others)
    with np.errstate(under="ignore"):
        for name, array in arrays.items():
            array[...] = copies[name]


@lru_cache(maxsize=4)
def _one_hot_rows(vocab_size: int) -> np.ndarray:
    return np.eye(vocab_size + 1, vocab_size)
