# ruff: noqa: D101, D102
"""Engines with the former interface behind the new one. Temporary: goes when both have the new one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import to_public
from rnnx.cells.cell import Cell, Stage
from rnnx.cells.parameters import name_gradients, recurrent_parameters
from rnnx.engines.protocol import Gradients, Tape


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
class _Gone:
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


class Legacy:
    def __init__(self, forward, backward, matmul, stepper):
        self._f, self._b, self._m, self._s = forward, backward, matmul, stepper

    def forward(self, call, *, keep):
        weights = pack(call.xp, call.cell, call.parameters)
        X, S, K, outputs, own = self._f(call.xp, call.cell, call.x, weights, call.s0, call.lengths, keep)
        parameters = recurrent_parameters(call.cell, call.parameters)
        if keep:
            parameters = {k: ns.owned_copy(call.xp, v) for k, v in parameters.items()}
        else:
            S = tuple(ns.owned_copy(call.xp, s[-1:, :, :]) for s in S)
        tape = Tape(
            call.cell,
            call.xp,
            call.dtype,
            X,
            call.indices,
            call.n_x,
            S,
            K if keep else None,
            call.lengths,
            parameters,
            own if keep else None,
        )
        return tuple(to_public(call.xp, a) for a in outputs), tape

    def backward(self, tape, cotangents):
        own = tape.own or pack(tape.xp, tape.cell, tape.parameters)
        dX, ds0, gradients = self._b(
            tape.xp, tape.cell, cotangents.states, cotangents.final, own, tape.x, tape.states, tape.saved, tape.lengths
        )
        dx = None if dX is None else to_public(tape.xp, dX)
        return Gradients(dx, tuple(map(tape.xp.matrix_transpose, ds0)), name_gradients(tape.xp, tape.cell, gradients))

    def matmul(self, a, b, bias=None):
        from rnnx._core.arrays import common_namespace

        return self._m(common_namespace({"a": a})[0], a, b, bias)

    def stepper(self, call):
        return self._s(call.xp, call.cell, pack(call.xp, call.cell, call.parameters), call.s0)
