# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The reference engine: the array API's functions, without in-place writes, so it works under ``jax.jit``.

All other engines are tested against it. The loops over time are in `loops`, the products of a whole sequence in
`products`.

Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of a stage.
"""

from collections.abc import Sequence
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors, unused_errors
from rnnx._core.layout import to_public, to_time_major, valid_steps
from rnnx.cells.parameters import StageWeights, name_gradients, recurrent_parameters, stack_weights
from rnnx.cells.wiring import wiring
from rnnx.engines.protocol import Arrays, Call, Cotangents, Engine, Gradients, Tape
from rnnx.engines.reference.loops import Prepared, loop, loop_back, prepared, step
from rnnx.engines.reference.products import gates_of, masked, one_hot, rows_of, side_of, stage_gradients


class ReferenceEngine:
    """See `rnnx.engines.protocol.Engine`."""

    @ignore_harmless_errors
    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        xp, cell = call.xp, call.cell
        parameters = recurrent_parameters(cell, call.parameters)
        if keep:  # the caller may later write to the parameters and x
            parameters = {key: ns.owned_copy(xp, a) for key, a in parameters.items()}
        X = to_time_major(xp, call.x, own=keep and call.lengths is None)
        valid = None if call.lengths is None else valid_steps(xp, call.lengths, call.n_steps)
        if not call.indices:
            X = masked(xp, valid, X)  # keeps NaN in padding out of the weight gradients
        E = tuple(masked(xp, valid, to_time_major(xp, e, own=keep and valid is None)) for e in call.inputs)
        weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in wiring(cell)]
        with unused_errors(valid is not None):  # past the ends
            S, saved = loop(call, X, E, weights, valid, keep)
        outputs = tuple(masked(xp, valid, s[1:, :, :]) for s in S)
        if keep and valid is None:
            outputs = tuple(ns.owned_copy(xp, a) for a in outputs)
        if not keep:
            S = tuple(ns.owned_copy(xp, s[-1:, :, :]) for s in S)
        kept, own, E = (saved, weights, E) if keep else (None, None, ())
        tape = Tape(cell, xp, call.dtype, X, call.indices, call.n_x, S, kept, call.lengths, parameters, own, E)
        return tuple(to_public(xp, a) for a in outputs), tape

    @ignore_harmless_errors
    def one_step(self, call: Call) -> tuple[Arrays, Arrays]:
        """Return the states after a call of one step, and the saved values, (n, m), without a tape."""
        xp, cell = call.xp, call.cell
        weights = [stack_weights(xp, stage, call.parameters, call.n_x, call.n_a) for stage in wiring(cell)]
        stages = prepared(xp, cell, weights, call.s0[0].T)
        x, inputs = ns.contiguous(xp, call.x[:, :, 0].T, own=True), [e[:, :, 0].T for e in call.inputs]
        after, saved = _step(xp, stages, weights, x, tuple([s.T for s in call.s0]), inputs)
        return tuple([s.T for s in after]), tuple([v.T for v in saved])

    @ignore_harmless_errors
    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        xp, cell = tape.xp, tape.cell
        weights = tape.own or [stack_weights(xp, stage, tape.parameters, tape.n_x, tape.n_a) for stage in wiring(cell)]
        with unused_errors(tape.lengths is not None):
            dZ, dE, ds0 = loop_back(tape, cotangents, weights)
        rows = one_hot(tape) if tape.indices else rows_of(xp, tape.x)
        valid = None if tape.lengths is None else valid_steps(xp, tape.lengths, tape.n_steps)
        dX, gradients = None, []
        if not tape.indices and all(stage.n_zx == 0 for stage in wiring(cell)):
            dX = xp.zeros_like(rows)  # no gate has an input side
        for stage, w, sides in zip(wiring(cell), weights, dZ, strict=True):
            if not tape.indices and stage.n_zx:
                through = rows_of(xp, side_of(stage, sides, "dzx", stage.units(tape.n_a))) @ w.wx
                dX = through if dX is None else dX + through
            gradients.append(stage_gradients(tape, stage, w, sides, rows))
        dx = None if dX is None else to_public(xp, masked(xp, valid, xp.reshape(dX, tape.x.shape)))
        named = name_gradients(xp, cell, tape.parameters, gradients, tape.n_x)
        d_inputs = tuple(to_public(xp, masked(xp, valid, d)) for d in dE)
        return Gradients(dx, tuple(map(xp.matrix_transpose, ds0)), named, d_inputs)

    @ignore_harmless_errors
    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        result = a @ b
        return result if bias is None else result + bias

    def stepper(self, call: Call) -> "ReferenceStepper":
        return ReferenceStepper(call)


ENGINE: Engine = ReferenceEngine()


def _step(
    xp: Any, stages: Sequence[Prepared], weights: Sequence[StageWeights], x: Array, s: Arrays, inputs: Sequence[Array]
) -> tuple[Arrays, Arrays]:
    """Return the states (m, n) after a step from states s with the inputs x (m, n_x), and the saved values."""
    zx = [gates_of(x @ w.wx.T + w.b, one.like.shape[1]) for w, one in zip(weights, stages, strict=True)]
    return step(xp, stages, zx, s, inputs)


class ReferenceStepper:
    """See `rnnx.engines.protocol.Stepper`."""

    def __init__(self, call: Call) -> None:
        xp = call.xp
        self._xp, self._states = xp, call.s0
        parameters = {key: ns.owned_copy(xp, a) for key, a in call.parameters.items()}
        self._weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in wiring(call.cell)]
        self._stages = prepared(xp, call.cell, self._weights, call.s0[0].T)

    @ignore_harmless_errors
    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        s = tuple([s.T for s in self._states])
        s, _ = _step(self._xp, self._stages, self._weights, xt.T, s, [e.T for e in inputs])
        self._states = tuple([a.T for a in s])
        return self._states

    def set(self, states: Arrays) -> None:
        self._states = states
