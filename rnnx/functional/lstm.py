"""The course's LSTM. See `rnnx.cells.lstm` for the equations."""

from collections.abc import Mapping
from typing import Any

from rnnx._core.arrays import Array
from rnnx.cells.lstm import LSTM
from rnnx.functional.caches import Caches
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward
from rnnx.functional.steps import step_backward, step_forward


def lstm_cell_forward(
    xt: Array, a_prev: Array, c_prev: Array, parameters: Mapping[str, Array]
) -> tuple[Array, Array, Array | None, tuple[Any, ...]]:
    """Run one step of an LSTM. Errors are those of `lstm_forward`.

    Parameters
    ----------
    xt : array, shape (n_x, m)
        Input of this step, float32 or float64; integer and bool are converted to the parameters' dtype.
    a_prev, c_prev : array, shape (n_a, m)
        Previous hidden and cell state.
    parameters : dict of str to array
        Wf, Wi, Wc, Wo (n_a, n_a + n_x), acting on [a_prev; xt] in that order, and bf, bi, bc, bo (n_a, 1);
        for an output layer, also Wy (n_y, n_a), by (n_y, 1).

    Returns
    -------
    a_next, c_next : array, shape (n_a, m)
    yt_pred : array, shape (n_y, m), or None without Wy and by
    cache : tuple
        (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters), for `lstm_cell_backward`, which reads the
        caller's `xt` and `parameters`.

    See Also
    --------
    lstm_forward, lstm_cell_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_prev = c_prev = np.zeros((5, 4))
    >>> a_next, c_next, y, cache = rnnx.lstm_cell_forward(np.ones((3, 4)), a_prev, c_prev, parameters)
    >>> a_next.shape, y.shape
    ((5, 4), (2, 4))
    """
    (a_next, c_next), yt_pred, cache = step_forward(LSTM, xt, {"a_prev": a_prev, "c_prev": c_prev}, parameters)
    return a_next, c_next, yt_pred, cache


def lstm_cell_backward(da_next: Array, dc_next: Array, cache: tuple[Any, ...]) -> dict[str, Array]:
    """Compute the gradients of one step of an LSTM. Errors are those of `lstm_backward`.

    Parameters
    ----------
    da_next, dc_next : array, shape (n_a, m)
        Gradients of the loss with respect to a_next and c_next.
    cache : tuple
        From `lstm_cell_forward`.

    Returns
    -------
    gradients : dict
        dxt (n_x, m), da_prev, dc_prev (n_a, m), dWf, dWi, dWc, dWo (n_a, n_a + n_x), dbf, dbi, dbc, dbo (n_a, 1).
        No dxt for a step taken from the caches of index inputs.

    See Also
    --------
    lstm_backward, lstm_cell_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_prev = c_prev = np.zeros((5, 4))
    >>> a_next, c_next, y, cache = rnnx.lstm_cell_forward(np.ones((3, 4)), a_prev, c_prev, parameters)
    >>> gradients = rnnx.lstm_cell_backward(np.ones_like(a_next), np.zeros_like(c_next), cache)
    >>> gradients["dxt"].shape, gradients["dWf"].shape
    ((3, 4), (5, 8))
    """
    return step_backward(LSTM, {"da_next": da_next, "dc_next": dc_next}, cache)


def lstm_forward(
    x: Array,
    a0: Array | None,
    parameters: Mapping[str, Array],
    *,
    c0: Array | None = None,
    lengths: Any = None,
    keep_caches: bool = True,
) -> tuple[Array, Array | None, Array, Caches]:
    """Run an LSTM over a sequence. Errors are those of `recurrent_forward`.

    Parameters
    ----------
    x : array, shape (n_x, m, T_x), or (m, T_x) of integers
        Inputs, or indices of one-hot inputs, as for `recurrent_forward`.
    a0 : array, shape (n_a, m), or None
        Initial hidden state; None means zeros.
    parameters : dict of str to array
        As for `lstm_cell_forward`.
    c0 : array, shape (n_a, m), optional
        Initial cell state; default zeros.
    lengths : sequence or array of int, shape (m,), optional
    keep_caches : bool
        As for `recurrent_forward`.

    Returns
    -------
    a : array, shape (n_a, m, T_x)
        Hidden state after each step.
    y : array, shape (n_y, m, T_x), or None without Wy and by
        Softmax outputs.
    c : array, shape (n_a, m, T_x)
        Cell state after each step.
    caches : Caches
        For `lstm_backward`. They unpack as (steps, x). ``caches.final_state`` holds the final "a" and "c".

    See Also
    --------
    lstm_backward, lstm_cell_forward, recurrent_forward, Stream

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, c, caches = rnnx.lstm_forward(np.ones((3, 4, 7)), None, parameters)
    >>> a.shape, y.shape
    ((5, 4, 7), (2, 4, 7))
    """
    (a, c), y, caches = recurrent_forward(LSTM, x, (a0, c0), parameters, lengths=lengths, keep_caches=keep_caches)
    return a, y, c, caches


def lstm_backward(
    da: Array | None,
    caches: Any,
    *,
    dc: Array | None = None,
    da_final: Array | None = None,
    dc_final: Array | None = None,
    consume: bool = False,
) -> dict[str, Array]:
    """Compute the gradients of `lstm_forward`, through all steps. Errors are those of `recurrent_backward`.

    An older notebook of the course does not carry da_prev and dc_prev from step to step, so its printed gradients are
    wrong for T_x > 1.

    Parameters
    ----------
    da : array, shape (n_a, m, T), or None
        Gradient with respect to the hidden states after the first T <= T_x steps; None means zeros.
    caches : Caches, or (steps, x)
        From `lstm_forward`, or hand-built: ([cache, ...], x) with the caches of `lstm_cell_forward`.
    dc : array, shape (n_a, m, T), optional
        Gradient with respect to the cell states after the first T steps.
    da_final, dc_final : array, shape (n_a, m), optional
        Gradients with respect to the final states, added to those in `da` and `dc`. They require T = T_x.
    consume : bool
        As for `recurrent_backward`.

    Returns
    -------
    gradients : dict
        dx (n_x, m, T), da0 (n_a, m), dWf, dWi, dWc, dWo (n_a, n_a + n_x), dbf, dbi, dbc, dbo (n_a, 1),
        dc0 (n_a, m). No dx for index inputs.

    See Also
    --------
    lstm_forward, lstm_cell_backward, recurrent_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, c, caches = rnnx.lstm_forward(np.ones((3, 4, 7)), None, parameters)
    >>> gradients = rnnx.lstm_backward(np.ones_like(a), caches)
    >>> gradients["dx"].shape, gradients["dWf"].shape
    ((3, 4, 7), (5, 8))
    """
    gradients = recurrent_backward(LSTM, (da, dc), caches, ds_final=(da_final, dc_final), consume=consume)
    gradients["dc0"] = gradients.pop("dc0")  # last, after the course's gradients
    return gradients
