"""The course's Elman network. See `rnnx.cells.rnn` for the equation."""

from collections.abc import Mapping
from typing import Any

from rnnx._core.arrays import Array
from rnnx.cells.rnn import RNN
from rnnx.functional.caches import Caches
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward
from rnnx.functional.steps import step_backward, step_forward


def rnn_cell_forward(
    xt: Array, a_prev: Array, parameters: Mapping[str, Array]
) -> tuple[Array, Array | None, tuple[Any, ...]]:
    """Run one step of an RNN. Errors are those of `rnn_forward`.

    a_next = tanh(Waa a_prev + Wax xt + ba), yt_pred = softmax(Wya a_next + by).

    Parameters
    ----------
    xt : array, shape (n_x, m)
        Input of this step, float32 or float64; integer and bool are converted to the parameters' dtype.
    a_prev : array, shape (n_a, m)
        Previous hidden state.
    parameters : dict of str to array
        Wax (n_a, n_x), Waa (n_a, n_a), ba (n_a, 1); for an output layer, also Wya (n_y, n_a), by (n_y, 1).

    Returns
    -------
    a_next : array, shape (n_a, m)
    yt_pred : array, shape (n_y, m), or None without Wya and by
    cache : tuple
        (a_next, a_prev, xt, parameters), for `rnn_cell_backward`, which reads the caller's `xt` and `parameters`.

    See Also
    --------
    rnn_forward, rnn_cell_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_next, y, cache = rnnx.rnn_cell_forward(np.ones((3, 4)), np.zeros((5, 4)), parameters)
    >>> a_next.shape, y.shape
    ((5, 4), (2, 4))
    """
    (a_next,), yt_pred, cache = step_forward(RNN, xt, {"a_prev": a_prev}, parameters)
    return a_next, yt_pred, cache


def rnn_cell_backward(da_next: Array, cache: tuple[Any, ...]) -> dict[str, Array]:
    """Compute the gradients of one step of an RNN. Errors are those of `rnn_backward`.

    Parameters
    ----------
    da_next : array, shape (n_a, m)
        Gradient of the loss with respect to a_next.
    cache : tuple
        From `rnn_cell_forward`.

    Returns
    -------
    gradients : dict
        dxt (n_x, m), da_prev (n_a, m), dWax (n_a, n_x), dWaa (n_a, n_a), dba (n_a, 1).
        No dxt for a step taken from the caches of index inputs.

    See Also
    --------
    rnn_backward, rnn_cell_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_next, y, cache = rnnx.rnn_cell_forward(np.ones((3, 4)), np.zeros((5, 4)), parameters)
    >>> gradients = rnnx.rnn_cell_backward(np.ones_like(a_next), cache)
    >>> gradients["dxt"].shape, gradients["dWax"].shape
    ((3, 4), (5, 3))
    """
    return step_backward(RNN, {"da_next": da_next}, cache)


def rnn_forward(
    x: Array, a0: Array | None, parameters: Mapping[str, Array], *, lengths: Any = None, keep_caches: bool = True
) -> tuple[Array, Array | None, Caches]:
    """Run an RNN over a sequence. Errors are those of `recurrent_forward`.

    Parameters
    ----------
    x : array, shape (n_x, m, T_x), or (m, T_x) of integers
        Inputs, or indices of one-hot inputs, as for `recurrent_forward`.
    a0 : array, shape (n_a, m), or None
        Initial hidden state; None means zeros.
    parameters : dict of str to array
        As for `rnn_cell_forward`.
    lengths : sequence or array of int, shape (m,), optional
    keep_caches : bool
        As for `recurrent_forward`.

    Returns
    -------
    a : array, shape (n_a, m, T_x)
        Hidden state after each step.
    y_pred : array, shape (n_y, m, T_x), or None without Wya and by
        Softmax outputs.
    caches : Caches
        For `rnn_backward`. They unpack as (steps, x). ``caches.final_state["a"]`` is the final hidden state.

    See Also
    --------
    rnn_backward, rnn_cell_forward, recurrent_forward, Stream

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, caches = rnnx.rnn_forward(np.ones((3, 4, 7)), None, parameters)
    >>> a.shape, y.shape
    ((5, 4, 7), (2, 4, 7))
    """
    (a,), y_pred, caches = recurrent_forward(RNN, x, (a0,), parameters, lengths=lengths, keep_caches=keep_caches)
    return a, y_pred, caches


def rnn_backward(
    da: Array | None, caches: Any, *, da_final: Array | None = None, consume: bool = False
) -> dict[str, Array]:
    """Compute the gradients of `rnn_forward`, through all steps. Errors are those of `recurrent_backward`.

    Parameters
    ----------
    da : array, shape (n_a, m, T), or None
        Gradient with respect to the hidden states after the first T <= T_x steps; None means zeros.
    caches : Caches, or (steps, x)
        From `rnn_forward`, or hand-built: ([cache, ...], x) with the caches of `rnn_cell_forward`.
    da_final : array, shape (n_a, m), optional
        Gradient with respect to the final hidden state, added to that in `da`. Requires T = T_x.
    consume : bool
        As for `recurrent_backward`.

    Returns
    -------
    gradients : dict
        dx (n_x, m, T), da0 (n_a, m), dWax (n_a, n_x), dWaa (n_a, n_a), dba (n_a, 1). No dx for index inputs.

    See Also
    --------
    rnn_forward, rnn_cell_backward, recurrent_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, caches = rnnx.rnn_forward(np.ones((3, 4, 7)), None, parameters)
    >>> gradients = rnnx.rnn_backward(np.ones_like(a), caches)
    >>> gradients["dx"].shape, gradients["dWax"].shape
    ((3, 4, 7), (5, 3))
    """
    return recurrent_backward(RNN, (da,), caches, ds_final=(da_final,), consume=consume)
