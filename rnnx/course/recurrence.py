"""The passes of the course's character model over one example, compiled around the cell of `rnnx.cells.rnn`.

A call of the general functions takes longer in Python than these loops need for a whole name. Dimensions as in
`rnnx.course`; all arrays are C-contiguous.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx.cells.rnn import RNN


class _Ops(NamedTuple):
    """What the RNN uses of `rnnx.cells.vocabulary.Ops`, on scalars."""

    tanh: Callable[[float], float]
    zeros_like: Callable[[float], float]


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Numba's compiler. Without Numba, functions stay as they are, and run much slower."""
    try:
        import numba
    except ImportError:
        return lambda function: function
    compiler: Callable[[Callable[..., Any]], Any] = numba.njit(**options)
    return compiler


@lru_cache(maxsize=1)
def passes() -> tuple[Callable[..., float], Callable[..., None]]:
    """Compile the forward and the backward pass; takes about three seconds in every process."""
    compiled = _compiler(error_model="numpy", fastmath={"reassoc", "contract"})
    stage = RNN.stages[0]
    cell_forward, cell_backward = compiled(stage.forward), compiled(stage.backward)
    ops = _Ops(compiled(lambda x: math.tanh(x)), compiled(lambda x: 0.0 * x))

    @compiled
    def dot(W, i, a, t):  # type: ignore[no-untyped-def]
        """Return element i of the product of W with row t."""
        total = 0.0
        for j in range(W.shape[1]):
            total += W[i, j] * a[t, j]
        return total

    @compiled
    def forward(inputs, targets, Wax, Waa, Wya, b, by, a, y):  # type: ignore[no-untyped-def]
        """Fill the states a (T + 1, n_a), whose first row is a0, and the probabilities y (T, n_y); return the loss.

        `inputs` and `targets` (T,) are indices; an input of n_x stands for zeros.
        """
        loss, n_steps = 0.0, len(y)
        for t in range(n_steps):  # a loop for each matrix, which then stays in the cache
            for i in range(len(Waa)):
                a[t + 1, i] = b[i, 0] + (Wax[i, inputs[t]] if inputs[t] < Wax.shape[1] else 0.0)
        for t in range(n_steps):
            for i in range(len(Waa)):
                (a[t + 1, i],), _ = cell_forward(ops, (a[t + 1, i],), (dot(Waa, i, a, t),), (a[t, i],))
        for t in range(n_steps):
            largest = -math.inf
            for k in range(len(Wya)):
                y[t, k] = by[k, 0] + dot(Wya, k, a, t + 1)
                largest = max(largest, y[t, k])
            loss -= y[t, targets[t]] - largest
            total = 0.0
            for k in range(len(Wya)):
                y[t, k] = math.exp(y[t, k] - largest)
                total += y[t, k]
            for k in range(len(Wya)):
                y[t, k] /= total
            loss += math.log(total)
        return loss

    @compiled
    def add_products(dW, d, a, first):  # type: ignore[no-untyped-def]
        """Add to the gradient of a matrix that was multiplied by the rows of a, from `first`."""
        for i in range(len(dW)):
            for t in range(len(d)):
                for j in range(dW.shape[1]):
                    dW[i, j] += d[t, i] * a[first + t, j]

    @compiled
    def backward(x, targets, Waa, Wya, a, dy, dz, dWax, dWaa, dWya, db, dby, da):  # type: ignore[no-untyped-def]
        """Add to the gradients; fill dz (T, n_a). dy are the probabilities first; da becomes the gradient of a0."""
        for t in range(len(dy) - 1, -1, -1):
            dy[t, targets[t]] -= 1.0
            for k in range(len(Wya)):
                dby[k, 0] += dy[t, k]
                for i in range(len(Waa)):
                    da[i, 0] += dy[t, k] * Wya[k, i]
            for i in range(len(Waa)):
                (dz[t, i],), _, (da[i, 0],) = cell_backward(ops, (da[i, 0],), (a[t, i],), (a[t + 1, i],), ())
                db[i, 0] += dz[t, i]
            for i in range(len(Waa)):
                for j in range(len(Waa)):
                    da[j, 0] += dz[t, i] * Waa[i, j]
            for j in range(x.shape[1]):
                if x[t, j] != 0.0:  # one element, if x is one-hot
                    for i in range(len(Waa)):
                        dWax[i, j] += dz[t, i] * x[t, j]
        add_products(dWaa, dz, a, 0)
        add_products(dWya, dy, a, 1)

    return forward, backward


@lru_cache(maxsize=1)
def updates() -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile `clip` and `update_parameters`, which round like NumPy; takes about a second in every process."""
    compiled = _compiler()

    @compiled
    def clip(gradients, limit):  # type: ignore[no-untyped-def]
        """Clip flat arrays in place."""
        for d in gradients:
            for i in range(len(d)):
                d[i] = min(max(d[i], -limit), limit)

    @compiled
    def update(parameters, gradients, lr):  # type: ignore[no-untyped-def]
        """Take a step in flat arrays, in place."""
        for k in range(len(parameters)):
            for i in range(len(parameters[k])):
                parameters[k][i] -= lr * gradients[k][i]

    return clip, update
