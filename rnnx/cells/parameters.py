"""Shapes and order of a cell's parameters, and the stacked weights of a stage.

Dimensions: n hidden units, n_x inputs, n_y outputs, G gates of a stage.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape
from rnnx.cells.cell import Cell, Stage


def expected_shapes(cell: Cell, n_x: int, n_a: int, n_y: int | None = None) -> dict[str, tuple[str, Shape]]:
    """Return each parameter's shape by key, in symbols and in numbers."""
    shapes = {key: shape for gate in cell.gates for key, shape in gate.shapes(n_x, n_a).items()}
    if n_y is not None:
        shapes |= {cell.head[0]: ("(n_y, n_a)", (n_y, n_a)), cell.head[1]: ("(n_y, 1)", (n_y, 1))}
    return shapes


def recurrent_parameters(cell: Cell, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Return the parameters without the output layer, per gate: weights, bias, recurrent bias if given."""
    return {key: parameters[key] for key in _recurrent_keys(cell) if key in parameters}


@lru_cache(maxsize=256)
def _recurrent_keys(cell: Cell) -> tuple[str, ...]:
    return tuple(key for gate in cell.gates for key in (*gate.keys, gate.recurrent_bias) if key)


class StageWeights(NamedTuple):
    """The parameters of one stage, stacked over its gates."""

    wx: Array  # (G n, n_x)
    wh: Array  # (G n, n)
    b: Array  # (G n,)
    bh: Array | None  # (G n,), zero for gates without a recurrent bias; None if no gate has one


def stack_weights(xp: Any, stage: Stage, parameters: Mapping[str, Array]) -> StageWeights:
    """Stack the parameters of one stage."""
    wx, wh = zip(*(gate.split(parameters) for gate in stage.gates), strict=True)
    biases = [parameters[gate.bias] for gate in stage.gates]
    recurrent = [gate.recurrent_bias or "" for gate in stage.gates]

    def stack(parts: Sequence[Array]) -> Array:
        return ns.contiguous(xp, xp.concat(list(parts), axis=0))

    bh = None
    if any(key in parameters for key in recurrent):
        zeros = xp.zeros_like(biases[0])
        bh = xp.reshape(stack([parameters.get(key, zeros) for key in recurrent]), (-1,))
    return StageWeights(stack(wx), stack(wh), xp.reshape(stack(biases), (-1,)), bh)


class StageGradients(NamedTuple):
    """Gradients of the parameters of one stage, stacked over its gates."""

    w: Array  # (G n, n + n_x), acting on [operand; x_t]
    b: Array  # (G n,)
    bh: Array | None  # (G n,)


def name_gradients(xp: Any, cell: Cell, keys: Collection[str], gradients: Sequence[StageGradients]) -> dict[str, Array]:
    """Return the gradients by "d" + key, given the stacked gradients of every stage and the keys of the parameters."""
    result: dict[str, Array] = {}
    for stage, (w, b, bh) in zip(cell.stages, gradients, strict=True):
        n = w.shape[0] // len(stage.gates)
        for g, gate in enumerate(stage.gates):
            rows = slice(g * n, (g + 1) * n)
            if gate.is_joint:
                result["d" + gate.weights[0]] = w[rows, :]
            else:
                result["d" + gate.weights[0]] = ns.contiguous(xp, w[rows, n:])
                result["d" + gate.weights[1]] = ns.contiguous(xp, w[rows, :n])
            result["d" + gate.bias] = b[rows, None]
            if gate.recurrent_bias in keys and bh is not None:
                result[f"d{gate.recurrent_bias}"] = bh[rows, None]
    return result
