"""Shapes and order of a cell's parameters, and the stacked weights of a stage.

Dimensions: n hidden units, n_x inputs, n_y outputs, G gates of a stage.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape
from rnnx.cells.cell import Cell
from rnnx.cells.wiring import StageWiring


def expected_shapes(cell: Cell, n_x: int, n_a: int, n_y: int | None = None) -> dict[str, tuple[str, Shape]]:
    """Return each parameter's shape by key, in symbols and in numbers."""
    shapes = {key: shape for gate in cell.gates for key, shape in gate.shapes(n_x, n_a).items()}
    for key in (*cell.vectors, *(cell.hoisted.sources if cell.hoisted else ())):
        units = cell.size(key, n_a)
        shapes[key] = "(n_a, 1)" if key not in dict(cell.widths) else f"({units}, 1)", (units, 1)
    if n_y is not None:
        shapes |= {cell.head[0]: ("(n_y, n_a)", (n_y, n_a)), cell.head[1]: ("(n_y, 1)", (n_y, 1))}
    return shapes


def recurrent_parameters(cell: Cell, parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Return the parameters without the output layer: per gate weights, bias, recurrent bias if given; vectors."""
    return {key: parameters[key] for key in _recurrent_keys(cell) if key in parameters}


@lru_cache(maxsize=256)
def _recurrent_keys(cell: Cell) -> tuple[str, ...]:
    return (*(key for gate in cell.gates for key in (*gate.keys, gate.recurrent_bias) if key), *cell.vectors)


class StageWeights(NamedTuple):
    """The parameters of one stage, stacked over its gates, G_x with an input side and G_h with a recurrent side.

    n_h is the number of columns of recurrent weights: the units of the operand, or of a head.
    """

    wx: Array  # (G_x n, n_x)
    wh: Array  # (G_h n, n_h)
    b: Array  # (G_x n,), zero for gates without a bias
    bh: Array | None  # (G_h n,), zero for gates without a recurrent bias; None if no gate has one
    vectors: tuple[Array, ...]  # (n,)


def stack_weights(xp: Any, wired: StageWiring, parameters: Mapping[str, Array], n_x: int, n_a: int) -> StageWeights:
    """Stack the parameters of one stage."""
    stage, n = wired.stage, wired.units(n_a)
    like = next(iter(parameters.values()))

    def stack(parts: Sequence[Array], columns: int) -> Array:
        if not parts:
            return xp.zeros((0, columns), dtype=like.dtype, device=ns.device(like))
        return ns.contiguous(xp, xp.concat(list(parts), axis=0))

    def flat(array: Array) -> Array:
        return xp.reshape(array, (-1,))

    sides = [gate.split(parameters, n_a) for gate in stage.gates]
    wx = stack([w for w, _ in sides[wired.only_h :]], n_x)
    wh = stack([w for _, w in sides[: wired.n_zh]], wired.columns(n_a))

    def biases(keys: Sequence[str]) -> Array:
        missing = not all(key in parameters for key in keys)
        zeros = xp.zeros((n, 1), dtype=like.dtype, device=ns.device(like)) if missing else None
        return flat(stack([parameters.get(key, zeros) for key in keys], 1))

    b = biases([gate.bias for gate in stage.of_inputs])
    recurrent = [gate.recurrent_bias or "" for gate in stage.recurrent]
    bh = biases(recurrent) if any(key in parameters for key in recurrent) else None
    return StageWeights(wx, wh, b, bh, tuple(flat(parameters[key]) for key in stage.vectors))


class StageGradients(NamedTuple):
    """Gradients of the parameters of one stage, stacked over its gates. Parts that a gate lacks are undefined.

    V is the number of vectors, whose gradients follow those of the biases.
    """

    w: Array  # (G n, n_h + n_x), acting on [operand; x_t], or of the operand on the units of the same head
    b: Array  # ((G + V) n,)
    bh: Array | None  # (G n,)


def name_gradients(
    xp: Any, cell: Cell, keys: Collection[str], gradients: Sequence[StageGradients], n_x: int
) -> dict[str, Array]:
    """Return the gradients by "d" + key, given the stacked gradients of every stage and the keys of the parameters."""
    result: dict[str, Array] = {}
    vectors: dict[str, Array] = {}
    for stage, (w, b, bh) in zip(cell.parts, gradients, strict=True):
        n = b.shape[0] // max(len(stage.gates) + len(stage.vectors), 1)
        n_h = w.shape[1] - n_x
        for g, gate in enumerate(stage.gates):
            rows = slice(g * n, (g + 1) * n)
            if gate.is_joint:
                result["d" + gate.weights[0]] = ns.contiguous(xp, w[rows, :])
            else:
                columns = {"x": slice(n_h, None), "h": slice(0, n_h)}
                for side, key in zip(gate.sides, gate.weights, strict=True):
                    result["d" + key] = ns.contiguous(xp, w[rows, columns[side]])
            if gate.bias:
                result["d" + gate.bias] = b[rows, None]
            if gate.recurrent_bias in keys and bh is not None:
                result[f"d{gate.recurrent_bias}"] = bh[rows, None]
        for k, key in enumerate(stage.vectors, len(stage.gates)):
            vectors["d" + key] = b[k * n : (k + 1) * n, None]
    return result | vectors
