"""Any cell over sequences and single steps. The course's functions call these with a fixed cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import flag
from rnnx._core.layout import zero_past_end
from rnnx.cells import Cell, cell_of
from rnnx.engines.protocol import Gradients
from rnnx.functional import arguments, prepared, schedule, signatures
from rnnx.functional.activations import of_columns
from rnnx.functional.caches import Caches
from rnnx.functional.cotangents import check_cotangents
from rnnx.functional.heads import dense
from rnnx.functional.resets import of_cell
from rnnx.functional.signatures import Signature


def recurrent_forward(
    cell: Cell | str,
    x: Array,
    s0: Sequence[Array | None],
    parameters: Mapping[str, Array],
    *,
    lengths: Any = None,
    inputs: Mapping[str, Array] | None = None,
    resets: Any = None,
    keep_caches: bool = True,
) -> tuple[tuple[Array, ...], Array | None, Caches]:
    """Run any cell over a sequence.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    x : array, shape (n_x, m, T_x), or (m, T_x) of integers
        Inputs, float32 or float64; integer and bool are converted to the parameters' dtype. A two-dimensional
        integer array holds indices, 0 to n_x - 1, of one-hot columns, which are never built. Only NumPy indices are
        checked; in other libraries, an index out of range gives an undefined result.
    s0 : sequence of array or None, shape (n_a, m)
        Initial states in the order of ``cell.states``; None and missing entries mean zeros.
    parameters : dict of str to array
        The keys of ``cell.parameter_keys``, and those of ``cell.head`` for an output layer.
    lengths : sequence or array of int, shape (m,), optional
        Number of steps of each example, 0 to T_x. Past its length, an example's inputs are ignored, its state stays
        constant and its outputs are zero.
    inputs : dict of str to array, shape (n_a, m, T_x) or (m, T_x), optional
        The extra inputs of the cell, by the names in ``cell.inputs``: one number per unit, or one for all units. Those
        in ``cell.defaults`` may be missing.
    resets : array of bool, shape (m, T_x), optional
        NumPy or the library of x. Where it is true, an example returns to its initial states before that step, and no
        gradient crosses: independent sequences one after another, as in packed batches and reinforcement learning.
    keep_caches : bool
        False for inference: nothing is saved for a backward pass, which is faster and takes less memory.

    Returns
    -------
    states : tuple of array, shape (n_a, m, T_x)
        States after each step, in the order of ``cell.states``.
    y : array, shape (n_y, m, T_x), or None
        Softmax of the output layer; None without one.
    caches : Caches
        For `recurrent_backward`; ``caches.final_state`` holds the final states.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, keys, dtypes, lengths, resets or indices, or arrays of two libraries or devices.

    See Also
    --------
    recurrent_backward, lstm_forward, cell

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("slstm", n_x=3, n_a=5, rng=0, dtype="float64")
    >>> states, _, caches = rnnx.recurrent_forward("slstm", np.ones((3, 2, 7)), (), parameters, lengths=[7, 4])
    >>> [state.shape for state in states]  # a, c, n, m
    [(5, 2, 7), (5, 2, 7), (5, 2, 7), (5, 2, 7)]
    """
    found, arrays = signatures.signature(cell, x, s0, parameters, inputs)
    keep = flag("keep_caches", keep_caches)
    outputs, caches, ends, parameters = prepared.run(found, arrays, x, s0, parameters, inputs, lengths, resets, keep)
    return outputs, head(found, parameters, outputs[0], ends), caches


def recurrent_backward(
    cell: Cell | str,
    ds: Sequence[Array | None],
    caches: Any,
    *,
    ds_final: Sequence[Array | None] = (),
    consume: bool = False,
) -> dict[str, Array]:
    """Compute the gradients of `recurrent_forward`.

    Parameters
    ----------
    cell : Cell or str
        The cell of the forward pass.
    ds : sequence of array or None, shape (n_a, m, T)
        Cotangents of the states after the first T <= T_x steps, in the order of ``cell.states``; None and missing
        entries mean zeros.
    caches : Caches, or (steps, x)
        From `recurrent_forward`.
    ds_final : sequence of array or None, shape (n_a, m)
        Cotangents of the final states, added to those in `ds`. Requires T = T_x.
    consume : bool
        Free the memory of `caches`, which then cannot be used again.

    Returns
    -------
    gradients : dict
        dx (n_x, m, T), unless the inputs are indices; d<state>0 (n_a, m) per state, including the contribution
        of resets; "d" + key per parameter of the recurrent part; "d" + name per extra input that was given, of its
        shape for T steps.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes or libraries, or `caches` of another cell or already consumed.

    See Also
    --------
    recurrent_forward, lstm_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("slstm", n_x=3, n_a=5, rng=0, dtype="float64")
    >>> states, _, caches = rnnx.recurrent_forward("slstm", np.ones((3, 2, 7)), (), parameters, lengths=[7, 4])
    >>> gradients = rnnx.recurrent_backward("slstm", (np.ones_like(states[0]),), caches)
    >>> gradients["dx"].shape, gradients["dWf"].shape
    ((3, 2, 7), (5, 8))
    """
    cell = cell_of(cell)
    call = prepared.Backward.of(cell, ds, caches, ds_final)
    gradients = call.run() if type(consume) is bool else None
    if gradients is None:
        named = arguments.by_state("ds", ds, cell, "d{}")
        final = arguments.by_state("ds_final", ds_final, cell, "d{}_final")
        gradients = checked_backward(cell, named, final, "caches", caches, flag("consume", consume), call)
    elif consume:
        caches.consume()
    dx, ds0, of_parameters, d_inputs = gradients
    result = {} if dx is None else {"dx": dx}
    for name, d in zip(arguments.state_names(cell.states, "d{}0"), ds0, strict=True):
        result[name] = d
    result |= of_parameters
    if not cell.inputs:
        return result
    return result | _of_given(caches, dict(zip(cell.inputs, d_inputs, strict=True)))


def _of_given(caches: Any, d_inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the gradients of the extra inputs that were given, summed over the units that share one."""
    owner = caches if isinstance(caches, Caches) else caches[0].caches
    found = {}
    for name, n_dims in owner.inputs.items():
        d = d_inputs[name]
        found[f"d{name}"] = d if n_dims == 3 else ns.namespace(d).sum(d, axis=0)
    return found


def checked_backward(
    cell: Cell,
    ds: Mapping[str, Array | None],
    ds_final: Mapping[str, Array | None],
    caches_name: str,
    caches: Any,
    consume: bool = False,
    call: prepared.Backward | None = None,
) -> Gradients:
    """Check the cotangents, keyed by their public names, and run the backward pass, prepared for calls like `call`."""
    tape, engine, owner = schedule.resolve(cell, caches)
    check_cotangents(tape, caches_name, ds, ds_final)
    if call is not None:
        call.prepare(engine, (*ds.values(), *ds_final.values()))
    gradients = schedule.gradients(tape, engine, ds, ds_final)
    if consume and owner is not None:
        owner.consume()
    return of_cell(tape.xp, cell, tape.cell, gradients)


def head(found: Signature, parameters: Mapping[str, Array], a: Array, ends: Array | None = None) -> Array | None:
    """Return the softmax outputs, zero past each length, or None without an output layer."""
    weights, bias = found.cell.head
    if weights not in parameters:
        return None
    xp = found.kind[0]
    return zero_past_end(xp, of_columns(xp, dense(xp, a, parameters[weights], parameters[bias])), ends)
