"""The GRU in the course's and in PyTorch's form. See `rnnx.cells.gru` for the equations."""

from collections.abc import Mapping
from typing import Any

from rnnx._core.arrays import Array
from rnnx._core.checks import flag
from rnnx.cells import Cell
from rnnx.cells.gru import GRU, GRU_RESET_AFTER
from rnnx.functional.caches import Caches
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward
from rnnx.functional.steps import step_backward, step_forward


def gru_cell_forward(
    xt: Array, a_prev: Array, parameters: Mapping[str, Array], *, reset_after: bool = False
) -> tuple[Array, Array | None, tuple[Any, ...]]:
    """Run one step of a GRU. Errors are those of `gru_forward`.

    Parameters
    ----------
    xt : array, shape (n_x, m)
        Input of this step, float32 or float64; integer and bool are converted to the parameters' dtype.
    a_prev : array, shape (n_a, m)
        Previous hidden state.
    parameters : dict of str to array
        Wu, Wr, Wc (n_a, n_a + n_x), acting on [a_prev; xt] in that order (Wc on [r a_prev; xt]), and bu,
        br, bc (n_a, 1); for an output layer, also Wy (n_y, n_a), by (n_y, 1).
    reset_after : bool
        Apply the reset gate after the recurrent product, as PyTorch does, instead of before it. `parameters` may
        then contain bhc (n_a, 1), the recurrent bias of the candidate.

    Returns
    -------
    a_next : array, shape (n_a, m)
    yt_pred : array, shape (n_y, m), or None without Wy and by
    cache : tuple
        (a_next, a_prev, ut, rt, cct, xt, parameters), for `gru_cell_backward`, which reads the caller's `xt` and
        `parameters`, but takes rt a_prev from the forward step. With `reset_after`, hct, the recurrent side of the
        candidate, follows cct.

    See Also
    --------
    gru_forward, gru_cell_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_next, y, cache = rnnx.gru_cell_forward(np.ones((3, 4)), np.zeros((5, 4)), parameters)
    >>> a_next.shape, y.shape
    ((5, 4), (2, 4))
    """
    (a_next,), yt_pred, cache = step_forward(_cell(reset_after), xt, {"a_prev": a_prev}, parameters)
    return a_next, yt_pred, cache


def gru_cell_backward(da_next: Array, cache: tuple[Any, ...], *, reset_after: bool = False) -> dict[str, Array]:
    """Compute the gradients of one step of a GRU. Errors are those of `gru_backward`.

    Parameters
    ----------
    da_next : array, shape (n_a, m)
        Gradient of the loss with respect to a_next.
    cache : tuple
        From `gru_cell_forward`.
    reset_after : bool
        As for `gru_cell_forward`.

    Returns
    -------
    gradients : dict
        dxt (n_x, m), da_prev (n_a, m), dWu, dWr, dWc (n_a, n_a + n_x), dbu, dbr, dbc (n_a, 1); dbhc with bhc.
        No dxt for a step taken from the caches of index inputs.

    See Also
    --------
    gru_backward, gru_cell_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a_next, y, cache = rnnx.gru_cell_forward(np.ones((3, 4)), np.zeros((5, 4)), parameters)
    >>> gradients = rnnx.gru_cell_backward(np.ones_like(a_next), cache)
    >>> gradients["dxt"].shape, gradients["dWu"].shape
    ((3, 4), (5, 8))
    """
    return step_backward(_cell(reset_after), {"da_next": da_next}, cache)


def gru_forward(
    x: Array,
    a0: Array | None,
    parameters: Mapping[str, Array],
    *,
    lengths: Any = None,
    keep_caches: bool = True,
    reset_after: bool = False,
) -> tuple[Array, Array | None, Caches]:
    """Run a GRU over a sequence. Errors are those of `recurrent_forward`.

    Parameters
    ----------
    x : array, shape (n_x, m, T_x), or (m, T_x) of integers
        Inputs, or indices of one-hot inputs, as for `recurrent_forward`.
    a0 : array, shape (n_a, m), or None
        Initial hidden state; None means zeros.
    parameters : dict of str to array
        As for `gru_cell_forward`.
    lengths : sequence or array of int, shape (m,), optional
    keep_caches : bool
        As for `recurrent_forward`.
    reset_after : bool
        As for `gru_cell_forward`.

    Returns
    -------
    a : array, shape (n_a, m, T_x)
        Hidden state after each step.
    y : array, shape (n_y, m, T_x), or None without Wy and by
        Softmax outputs.
    caches : Caches
        For `gru_backward`. They unpack as (steps, x). ``caches.final_state["a"]`` is the final hidden state.

    See Also
    --------
    gru_backward, gru_cell_forward, recurrent_forward, Stream

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, caches = rnnx.gru_forward(np.ones((3, 4, 7)), None, parameters)
    >>> a.shape, y.shape
    ((5, 4, 7), (2, 4, 7))
    """
    cell = _cell(reset_after)
    (a,), y, caches = recurrent_forward(cell, x, (a0,), parameters, lengths=lengths, keep_caches=keep_caches)
    return a, y, caches


def gru_backward(
    da: Array | None,
    caches: Any,
    *,
    da_final: Array | None = None,
    consume: bool = False,
    reset_after: bool = False,
) -> dict[str, Array]:
    """Compute the gradients of `gru_forward`, through all steps. Errors are those of `recurrent_backward`.

    Parameters
    ----------
    da : array, shape (n_a, m, T), or None
        Gradient with respect to the hidden states after the first T <= T_x steps; None means zeros.
    caches : Caches, or (steps, x)
        From `gru_forward`, or hand-built: ([cache, ...], x) with the caches of `gru_cell_forward`.
    da_final : array, shape (n_a, m), optional
        Gradient with respect to the final hidden state, added to that in `da`. Requires T = T_x.
    consume : bool
        As for `recurrent_backward`.
    reset_after : bool
        As for `gru_cell_forward`.

    Returns
    -------
    gradients : dict
        dx (n_x, m, T), da0 (n_a, m), dWu, dWr, dWc (n_a, n_a + n_x), dbu, dbr, dbc (n_a, 1); dbhc with bhc.
        No dx for index inputs.

    See Also
    --------
    gru_forward, gru_cell_backward, recurrent_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, n_y=2, rng=0, dtype="float64")
    >>> a, y, caches = rnnx.gru_forward(np.ones((3, 4, 7)), None, parameters)
    >>> gradients = rnnx.gru_backward(np.ones_like(a), caches)
    >>> gradients["dx"].shape, gradients["dWu"].shape
    ((3, 4, 7), (5, 8))
    """
    return recurrent_backward(_cell(reset_after), (da,), caches, ds_final=(da_final,), consume=consume)


def _cell(reset_after: bool) -> Cell:
    return GRU_RESET_AFTER if flag("reset_after", reset_after) else GRU
