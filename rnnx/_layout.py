"""Public layout <-> internal layout, and the parameter dict <-> stacked weights.

Public arrays are (n, m, T_x): features, examples, time. Inside, sequences are (T, m, n): time-major, one row
an example, so the public array is the transpose of the internal one, a view in Fortran order.

Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of a stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnnx import _namespace as ns
from rnnx._namespace import Array
from rnnx.cells import Cell, Stage


def to_time_major(xp: Any, x: Array, *, own: bool = False) -> Array:
    """(n, m, T) to (T, m, n) in C order; no copy if `x` is in Fortran order, unless it has to be our own."""
    view = xp.permute_dims(x, (2, 1, 0))
    result = ns.contiguous(xp, view)
    return ns.owned_copy(xp, result) if own and result is view else result


def to_public(xp: Any, x: Array) -> Array:
    """(T, m, n) to (n, m, T), a view."""
    return xp.permute_dims(x, (2, 1, 0))


def valid_steps(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Boolean (T, m, 1): whether step t of example j lies before the example's end."""
    steps = xp.arange(n_steps, dtype=lengths.dtype, device=ns.device(lengths))
    return xp.expand_dims(xp.expand_dims(steps, axis=1) < xp.expand_dims(lengths, axis=0), axis=2)


@dataclass(frozen=True)
class StageWeights:
    """The weights of one stage, gates stacked in order."""

    wx: Array  # (G n, n_x)
    wh: Array  # (G n, n)
    b: Array  # (G n,)
    bh: Array | None  # (G n,), the recurrent bias, zero for the gates without one


def pack(xp: Any, cell: Cell, parameters: Mapping[str, Array]) -> tuple[StageWeights, ...]:
    """Stack the parameters of each stage."""
    return tuple(_pack_stage(xp, stage, parameters) for stage in cell.stages)


def _pack_stage(xp: Any, stage: Stage, parameters: Mapping[str, Array]) -> StageWeights:
    wx, wh = [], []
    for gate in stage.gates:
        weights = [parameters[key] for key in gate.weights]
        n_a = weights[0].shape[0]
        hidden, inputs = (weights[1], weights[0]) if len(weights) == 2 else (weights[0][:, :n_a], weights[0][:, n_a:])
        wh.append(hidden)
        wx.append(inputs)
    bias = [xp.reshape(parameters[gate.bias], (-1,)) for gate in stage.gates]
    recurrent = [parameters.get(gate.recurrent_bias or "") for gate in stage.gates]
    if any(b is not None for b in recurrent):
        bh = xp.concat(
            [xp.zeros_like(z) if b is None else xp.reshape(b, (-1,)) for b, z in zip(recurrent, bias, strict=True)]
        )
    else:
        bh = None
    return StageWeights(
        ns.contiguous(xp, xp.concat(wx, axis=0)), ns.contiguous(xp, xp.concat(wh, axis=0)), xp.concat(bias), bh
    )


def unpack(xp: Any, cell: Cell, gradients: Sequence[StageWeights]) -> dict[str, Array]:
    """Gradients of stacked weights to the public dict: "d" + key for every parameter."""
    result: dict[str, Array] = {}
    for stage, grad in zip(cell.stages, gradients, strict=True):
        n_a = grad.wh.shape[1]
        for g, gate in enumerate(stage.gates):
            rows = slice(g * n_a, (g + 1) * n_a)
            if len(gate.weights) == 1:
                result["d" + gate.weights[0]] = xp.concat([grad.wh[rows, :], grad.wx[rows, :]], axis=1)
            else:
                result["d" + gate.weights[0]] = grad.wx[rows, :]
                result["d" + gate.weights[1]] = grad.wh[rows, :]
            result["d" + gate.bias] = xp.reshape(grad.b[rows], (n_a, 1))
            if gate.recurrent_bias and grad.bh is not None:
                result["d" + gate.recurrent_bias] = xp.reshape(grad.bh[rows], (n_a, 1))
    return result
