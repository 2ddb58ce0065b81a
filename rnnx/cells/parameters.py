"""The parameters of a cell: their shapes, and the dict of them by stage and gate.

Dimensions: n hidden units, n_x inputs, n_y outputs, G gates of a stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells.cell import Cell, Stage

Shape = tuple[int, ...]


def expected_shapes(cell: Cell, n_x: int, n_a: int, n_y: int | None = None) -> dict[str, tuple[str, Shape]]:
    """Every key a cell knows, with its shape in symbols and in numbers."""
    shapes: dict[str, tuple[str, Shape]] = {}
    for gate in cell.gates:
        if len(gate.weights) == 1:
            shapes[gate.weights[0]] = ("(n_a, n_a + n_x)", (n_a, n_a + n_x))
        else:
            shapes[gate.weights[0]] = ("(n_a, n_x)", (n_a, n_x))
            shapes[gate.weights[1]] = ("(n_a, n_a)", (n_a, n_a))
        for bias in filter(None, (gate.bias, gate.recurrent_bias)):
            shapes[bias] = ("(n_a, 1)", (n_a, 1))
    if n_y is not None:
        shapes[cell.head[0]] = ("(n_y, n_a)", (n_y, n_a))
        shapes[cell.head[1]] = ("(n_y, 1)", (n_y, 1))
    return shapes


@dataclass(frozen=True)
class StageWeights:
    """The parameters of one stage, gate by gate, and on demand stacked in the order of the gates."""

    xp: Any
    n: int
    weights: tuple[tuple[Array, ...], ...]  # a gate's: (n, n + n_x) on [operand; x_t], or (n, n_x) and (n, n)
    bias: tuple[Array, ...]  # (n, 1)
    recurrent_bias: tuple[Array | None, ...]  # (n, 1) or None

    def map(self, function: Callable[[Array], Array]) -> "StageWeights":
        """The same with every array replaced."""
        weights = tuple(tuple(map(function, w)) for w in self.weights)
        recurrent = tuple(None if b is None else function(b) for b in self.recurrent_bias)
        return StageWeights(self.xp, self.n, weights, tuple(map(function, self.bias)), recurrent)

    @property
    def n_x(self) -> int:
        """The number of inputs."""
        first = self.weights[0]
        return int(first[0].shape[1]) - (self.n if len(first) == 1 else 0)

    @property
    def hidden(self) -> list[Array]:
        """What multiplies the operand: (n, n), per gate."""
        return [w[1] if len(w) == 2 else w[0][:, : self.n] for w in self.weights]

    @property
    def inputs(self) -> list[Array]:
        """What multiplies x_t: (n, n_x), per gate."""
        return [w[0] if len(w) == 2 else w[0][:, self.n :] for w in self.weights]

    @cached_property
    def wh(self) -> Array:
        """(G n, n)."""
        return ns.contiguous(self.xp, self.xp.concat(self.hidden, axis=0))

    @cached_property
    def wx(self) -> Array:
        """(G n, n_x)."""
        return ns.contiguous(self.xp, self.xp.concat(self.inputs, axis=0))

    @cached_property
    def b(self) -> Array:
        """(G n,)."""
        return self.xp.concat([self.xp.reshape(b, (-1,)) for b in self.bias])

    @cached_property
    def bh(self) -> Array | None:
        """(G n,), zero for the gates without one; None if no gate has one."""
        if all(b is None for b in self.recurrent_bias):
            return None
        both = zip(self.recurrent_bias, self.bias, strict=True)
        columns = [self.xp.zeros_like(like) if b is None else b for b, like in both]
        return self.xp.concat([self.xp.reshape(b, (-1,)) for b in columns])


@dataclass(frozen=True)
class StageGradients:
    """Gradients of the parameters of one stage, gates stacked."""

    w: Array  # (G n, n + n_x), acting on [operand; x_t]
    b: Array  # (G n,)
    bh: Array | None


def pack(xp: Any, cell: Cell, parameters: Mapping[str, Array]) -> tuple[StageWeights, ...]:
    """The parameters by stage and gate: views of what is given."""
    return tuple(_pack_stage(xp, stage, parameters) for stage in cell.stages)


def _pack_stage(xp: Any, stage: Stage, parameters: Mapping[str, Array]) -> StageWeights:
    gates = stage.gates
    bias = tuple(parameters[gate.bias] for gate in gates)
    weights = tuple(tuple(parameters[key] for key in gate.weights) for gate in gates)
    recurrent = tuple(parameters.get(gate.recurrent_bias or "") for gate in gates)
    return StageWeights(xp, bias[0].shape[0], weights, bias, recurrent)


def unpack(xp: Any, cell: Cell, gradients: Sequence[StageGradients]) -> dict[str, Array]:
    """Gradients of stacked parameters to the public dict: "d" + key for every parameter."""
    result: dict[str, Array] = {}
    for stage, grad in zip(cell.stages, gradients, strict=True):
        n_a = grad.w.shape[0] // len(stage.gates)
        for g, gate in enumerate(stage.gates):
            rows = slice(g * n_a, (g + 1) * n_a)
            if len(gate.weights) == 1:
                result["d" + gate.weights[0]] = grad.w[rows, :]
            else:
                result["d" + gate.weights[0]] = ns.contiguous(xp, grad.w[rows, n_a:])
                result["d" + gate.weights[1]] = ns.contiguous(xp, grad.w[rows, :n_a])
            result["d" + gate.bias] = grad.b[rows, None]
            if gate.recurrent_bias and grad.bh is not None:
                result["d" + gate.recurrent_bias] = grad.bh[rows, None]
    return result
