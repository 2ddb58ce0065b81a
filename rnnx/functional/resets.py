"""Resets: steps before which examples return to their initial states."""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import boolean_array, check_shape
from rnnx.cells import Cell
from rnnx.cells.options import RESET, initial, reset, with_options
from rnnx.engines.protocol import Call, Gradients


def with_resets(call: Call, resets: Any) -> Call:
    """Return the call that also sets states back where `resets`, (m, T_x) of bool, is true."""
    xp, shape = call.xp, (call.m, call.n_steps)
    mask = boolean_array(xp, ns.device(call.s0[0]), "resets", resets)
    check_shape("resets", mask, "(m, T_x)", shape)
    cell = with_options(call.cell, resets=True)
    arrays = dict(zip(call.cell.inputs, call.inputs, strict=True))
    for state, s in zip(call.cell.states, call.s0, strict=True):
        whole = (s.shape[0], *shape)
        arrays[reset(call.cell, state)] = xp.broadcast_to(xp.astype(mask, call.dtype)[None, :, :], whole)
        arrays[initial(state)] = xp.broadcast_to(s[:, :, None], whole)
    return call._replace(cell=cell, inputs=tuple(arrays[name] for name in cell.inputs))


def of_cell(xp: Any, cell: Cell, run: Cell, gradients: Gradients) -> Gradients:
    """Return the gradients of a cell, given those of `run`, the cell that ran: the same or that with resets."""
    if RESET not in run.inputs or RESET in cell.inputs:
        return gradients
    shares = initial_shares(xp, run, gradients)
    own = dict(zip(run.inputs, gradients.inputs, strict=True))
    s0 = tuple(d + shares[state] for state, d in zip(cell.states, gradients.s0, strict=True))
    return gradients._replace(s0=s0, inputs=tuple(own[name] for name in cell.inputs))


def initial_shares(xp: Any, run: Cell, gradients: Gradients) -> dict[str, Array]:
    """Return what the initial states' gradients get from resets, (n_a, m), by state; empty without resets."""
    own = dict(zip(run.inputs, gradients.inputs, strict=True))
    return {state: xp.sum(own[initial(state)], axis=2) for state in run.states if initial(state) in own}
