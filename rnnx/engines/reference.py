# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The reference engine: a Python loop over array API functions, without in-place writes, so it works under ``jax.jit``.

All other engines are tested against it.

Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of a stage.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import to_public, to_time_major, valid_steps
from rnnx._core.underflow import ignore_underflow, unused_errors
from rnnx.cells import Cell
from rnnx.cells.parameters import StageGradients, StageWeights, name_gradients, recurrent_parameters, stack_weights
from rnnx.cells.vocabulary import Ops, array_ops
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.protocol import Arrays, Call, Cotangents, Engine, Gradients, Tape

Weights = Sequence[StageWeights]
Sides = dict[str, Array]  # "dzx" and "dzh", see `StageWiring.blocks`


class ReferenceEngine:
    """See `rnnx.engines.protocol.Engine`."""

    @ignore_underflow
    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        xp, cell = call.xp, call.cell
        parameters = recurrent_parameters(cell, call.parameters)
        if keep:  # the caller may later write to the parameters and x
            parameters = {key: ns.owned_copy(xp, a) for key, a in parameters.items()}
        X = to_time_major(xp, call.x, own=keep and call.lengths is None)
        valid = None if call.lengths is None else valid_steps(xp, call.lengths, call.n_steps)
        if not call.indices:
            X = _where(xp, valid, X)  # keeps NaN in padding out of the weight gradients
        E = tuple(_where(xp, valid, to_time_major(xp, e, own=keep and valid is None)) for e in call.inputs)
        weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in cell.stages]
        with unused_errors(valid is not None):  # past the ends
            S, saved = _loop(call, X, E, weights, valid, keep)
        outputs = tuple(_where(xp, valid, s[1:, :, :]) for s in S)
        if keep and valid is None:
            outputs = tuple(ns.owned_copy(xp, a) for a in outputs)
        if not keep:
            S = tuple(ns.owned_copy(xp, s[-1:, :, :]) for s in S)
        kept, own, E = (saved, weights, E) if keep else (None, None, ())
        tape = Tape(cell, xp, call.dtype, X, call.indices, call.n_x, S, kept, call.lengths, parameters, own, E)
        return tuple(to_public(xp, a) for a in outputs), tape

    @ignore_underflow
    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        xp, cell = tape.xp, tape.cell
        weights = tape.own or [stack_weights(xp, stage, tape.parameters, tape.n_x, tape.n_a) for stage in cell.stages]
        with unused_errors(tape.lengths is not None):
            dZ, dE, ds0 = _loop_back(tape, cotangents, weights)
        rows = _one_hot(tape) if tape.indices else _rows(xp, tape.x)
        valid = None if tape.lengths is None else valid_steps(xp, tape.lengths, tape.n_steps)
        dX, gradients = None, []
        if not tape.indices and all(stage.n_zx == 0 for stage in wiring(cell)):
            dX = xp.zeros_like(rows)  # no gate has an input side
        for stage, w, sides in zip(wiring(cell), weights, dZ, strict=True):
            if not tape.indices and stage.n_zx:
                through = _rows(xp, _side(stage, sides, "dzx", tape.n_a)) @ w.wx
                dX = through if dX is None else dX + through
            gradients.append(_stage_gradients(tape, stage, w.bh is not None, sides, rows))
        dx = None if dX is None else to_public(xp, _where(xp, valid, xp.reshape(dX, tape.x.shape)))
        named = name_gradients(xp, cell, tape.parameters, gradients)
        d_inputs = tuple(to_public(xp, _where(xp, valid, d)) for d in dE)
        return Gradients(dx, tuple(map(xp.matrix_transpose, ds0)), named, d_inputs)

    @ignore_underflow
    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        result = a @ b
        return result if bias is None else result + bias

    def stepper(self, call: Call) -> "ReferenceStepper":
        return ReferenceStepper(call)


ENGINE: Engine = ReferenceEngine()


class ReferenceStepper:
    """See `rnnx.engines.protocol.Stepper`."""

    def __init__(self, call: Call) -> None:
        xp = call.xp
        self._xp, self._states = xp, call.s0
        parameters = {key: ns.owned_copy(xp, a) for key, a in call.parameters.items()}
        self._weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in call.cell.stages]
        self._stages = _prepared(xp, call.cell, self._weights, xp.matrix_transpose(call.s0[0]))

    @ignore_underflow
    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        xp = self._xp
        x, s = xp.matrix_transpose(xt), tuple(map(xp.matrix_transpose, self._states))
        zx = [_gates(x @ xp.matrix_transpose(w.wx) + w.b, s[0].shape[1]) for w in self._weights]
        s, _ = _step(self._stages, zx, s, [xp.matrix_transpose(e) for e in inputs])
        self._states = tuple(map(xp.matrix_transpose, s))
        return self._states

    def set(self, states: Arrays) -> None:
        self._states = states


def _loop(call: Call, X: Array, E: Arrays, weights: Weights, valid: Array | None, keep: bool) -> tuple[Arrays, Arrays]:
    """Return the states, each (T + 1, m, n), and the saved values, each (T, m, n)."""
    xp, cell = call.xp, call.cell
    s0 = tuple(map(xp.matrix_transpose, call.s0))
    stages = _prepared(xp, cell, weights, s0[0])
    Zx = [_gates(_input_side(call, X, w), call.n_a) for w in weights]
    states, saved = [s0], []
    for t in range(call.n_steps):
        zx = [tuple([z[t, ...] for z in gates]) for gates in Zx]
        s, values = _step(stages, zx, states[-1], [e[t, ...] for e in E])
        if valid is not None:
            here = valid[t, ...]
            s = tuple(xp.where(here, new, old) for new, old in zip(s, states[-1], strict=True))
            values = tuple(_where(xp, here, v) for v in values)
        states.append(s)
        if keep:
            saved.append(values)
    S = tuple(xp.stack(list(column)) for column in zip(*states, strict=True))
    return S, tuple(_stack(xp, [v[k] for v in saved], like=s0[0]) for k in range(len(cell.saved)))


def _input_side(call: Call, X: Array, w: StageWeights) -> Array:
    """Return W_x x + b for all steps, (T, m, G_x n); indices select columns of W_x."""
    xp, columns = call.xp, call.xp.matrix_transpose(w.wx)
    product = xp.take(columns, xp.reshape(X, (-1,)), axis=0) if call.indices else _rows(xp, X) @ columns
    return xp.reshape(product + w.b, (call.n_steps, call.m, w.b.shape[0]))


class _Stage(NamedTuple):
    """A stage and its parameters, prepared for the loop over time."""

    wiring: StageWiring
    ops: Ops
    wh: Array  # (G_h n, n)
    wh_t: Array
    bh: Array | None
    vectors: Arrays  # (m, n)

    def given(self, inputs: Sequence[Array]) -> Arrays:
        """Return the vectors and the extra inputs of a step, each (m, n)."""
        if not self.wiring.takes_given:
            return ()
        return (*self.vectors, *[inputs[slot.number] for slot in self.wiring.inputs])


def _prepared(xp: Any, cell: Cell, weights: Weights, like: Array) -> list[_Stage]:
    """Prepare the stages for states like (m, n)."""
    return [
        _Stage(
            stage,
            array_ops(xp),
            w.wh,
            xp.matrix_transpose(w.wh),
            w.bh,
            tuple(xp.broadcast_to(v, like.shape) for v in w.vectors),
        )
        for stage, w in zip(wiring(cell), weights, strict=True)
    ]


def _step(stages: Sequence[_Stage], zx: Sequence[Arrays], s: Arrays, inputs: Sequence[Array]) -> tuple[Arrays, Arrays]:
    """Run one step, given each stage's input sides by gate; return the new states and the saved values."""
    saved: Arrays = ()
    for one, sides in zip(stages, zx, strict=True):
        zh = s[0] @ one.wh_t
        if one.bh is not None:
            zh = zh + one.bh
        s, kept = one.wiring.forward(one.ops, sides, _gates(zh, s[0].shape[1]), s, one.given(inputs))
        saved = (*saved, *kept) if one.wiring.is_last else (*saved, *kept, *s)
    return s, saved


def _loop_back(tape: Tape, cotangents: Cotangents, weights: Weights) -> tuple[list[Sides], Arrays, Arrays]:
    """Return the cotangents of zx and zh per stage and of the extra inputs, over time, and of the initial states."""
    xp = tape.xp
    valid = None if tape.lengths is None else valid_steps(xp, tape.lengths, tape.n_steps)
    dS = tuple(None if d is None else _where(xp, valid, to_time_major(xp, d)) for d in cotangents.states)
    ds = tuple(
        xp.zeros_like(s[0, :, :]) if d is None else ns.owned_copy(xp, xp.matrix_transpose(d))
        for d, s in zip(cotangents.final, tape.states, strict=True)
    )
    stages, steps = _prepared_back(tape, weights, ds[0]), []
    for t in range(tape.n_steps - 1, -1, -1):
        ds = tuple([d if D is None else d + D[t, ...] for d, D in zip(ds, dS, strict=True)])
        sides, d_inputs, ds_prev = _step_back(xp, stages, t, ds, [e[t, ...] for e in tape.inputs])
        steps.append((sides, d_inputs))
        if valid is not None:
            here = valid[t, ...]
            ds_prev = tuple(xp.where(here, new, old) for new, old in zip(ds_prev, ds, strict=True))
        ds = ds_prev
    steps.reverse()
    dZ = []
    for i, stage in enumerate(wiring(tape.cell)):
        n_blocks = {"dzx": stage.blocks["dzx"].stop} | ({} if stage.stage.additive else {"dzh": stage.n_zh})
        like = {role: xp.concat([ds[0]] * max(n, 1), axis=1)[:, : n * tape.n_a] for role, n in n_blocks.items()}
        over_time = {role: _stack(xp, [sides[i][role] for sides, _ in steps], like[role]) for role in n_blocks}
        dZ.append({role: _where(xp, valid, dz) for role, dz in over_time.items()})
    dE = tuple(_stack(xp, [d[k] for _, d in steps], ds[0]) for k in range(len(tape.inputs)))
    return dZ, dE, ds


class _StageBack(NamedTuple):
    """A stage, and the values over time that its backward function reads."""

    stage: _Stage
    reads: Arrays
    writes: Arrays
    saves: Arrays


def _prepared_back(tape: Tape, weights: Weights, like: Array) -> list[_StageBack]:
    """Prepare the stages for a backward pass, the last one first."""
    stages = [
        _StageBack(one, *(tuple(_over_time(tape, slot) for slot in slots) for slots in one.wiring.values))
        for one in _prepared(tape.xp, tape.cell, weights, like)
    ]
    return stages[::-1]


def _step_back(
    xp: Any, stages: Sequence[_StageBack], t: int, ds: Arrays, inputs: Sequence[Array]
) -> tuple[list[Sides], Arrays, Arrays]:
    """Run step t backward; return per stage (m, blocks n), and the cotangents of the extra inputs and the states."""
    found: list[Sides] = []
    d_inputs: Arrays = ()
    like = ds[0]
    for one, *values in stages:
        reads, writes, saves = [tuple([a[t, ...] for a in arrays]) for arrays in values]
        rows, ds, d_own = one.wiring.backward(one.ops, ds, reads, writes, saves, one.given(inputs))
        sides = {role: _join_blocks(xp, blocks, like) for role, blocks in rows.items()}
        if one.wiring.n_zh:
            ds = (ds[0] + _side(one.wiring, sides, "dzh", like.shape[1]) @ one.wh, *ds[1:])
        found.append(sides)
        d_inputs = (*d_own, *d_inputs)
    return found[::-1], d_inputs, ds


def _join_blocks(xp: Any, blocks: Sequence[Array], like: Array) -> Array:
    """Join blocks (m, n), of which there may be none, to (m, blocks n)."""
    if len(blocks) == 1:
        return blocks[0]
    return xp.concat(list(blocks), axis=1) if blocks else like[:, :0]


def _side(stage: StageWiring, sides: Sides, role: str, n: int) -> Array:
    """Return the blocks of the gates with one side, of arrays (..., blocks n)."""
    first, count = stage.blocks[role].start, stage.n_zx if role == "dzx" else stage.n_zh
    side = sides[role if role in sides else "dzx"]
    return side if side.shape[-1] == count * n else side[..., first * n : (first + count) * n]


def _stage_gradients(tape: Tape, stage: StageWiring, has_bh: bool, sides: Sides, rows: Array) -> StageGradients:
    """Return the gradients of a stage's parameters; `rows` are the inputs, (T m, n_x)."""
    xp, n = tape.xp, tape.n_a

    def pad(part: Array, before: int = 0, after: int = 0) -> Array:
        """Add blocks of n zero rows."""
        zeros = [xp.zeros((k * n, *part.shape[1:]), dtype=part.dtype) if k else None for k in (before, after)]
        return xp.concat([a for a in (zeros[0], part, zeros[1]) if a is not None], axis=0)

    dzx, dzh = (_rows(xp, _side(stage, sides, role, n)) for role in ("dzx", "dzh"))
    operand = _rows(xp, _over_time(tape, stage.operand))
    of_inputs = _scatter_add(xp, dzx, rows) if tape.indices else xp.matrix_transpose(dzx) @ rows
    only_h, only_x = stage.n_gates - stage.n_zx, stage.n_gates - stage.n_zh
    w = xp.concat((pad(xp.matrix_transpose(dzh) @ operand, after=only_x), pad(of_inputs, before=only_h)), axis=1)
    b = pad(xp.sum(_rows(xp, sides["dzx"]), axis=0), before=0 if stage.stage.additive else only_h)
    bh = pad(xp.sum(dzh, axis=0), after=only_x) if has_bh else None
    return StageGradients(w, b, bh)


def _over_time(tape: Tape, slot: Slot) -> Array:
    """Return the values of a slot at all steps, (T, m, n)."""
    if slot.kind == "state":
        states = tape.states[slot.number]
        return states[1:, :, :] if slot.after else states[: tape.n_steps, :, :]
    assert tape.saved is not None
    return tape.saved[slot.number]


def _where(xp: Any, valid: Array | None, a: Array, other: Array | None = None) -> Array:
    """Replace `a` past each length by `other`, or by zero; None means full lengths."""
    return a if valid is None else xp.where(valid, a, xp.zeros_like(a) if other is None else other)


def _one_hot(tape: Tape) -> Array:
    """Return the inputs as one-hot rows, (T m, n_x)."""
    classes = tape.xp.arange(tape.n_x, dtype=tape.x.dtype, device=ns.device(tape.x))
    return tape.xp.astype(tape.xp.reshape(tape.x, (-1, 1)) == classes, tape.dtype)


def _scatter_add(xp: Any, dz: Array, one_hot: Array) -> Array:
    """Return dz^T onehot, since the array API standard has no scatter-add; NaN only in columns with a NaN in dz."""
    if not ns.is_on_host(dz) or (finite := xp.isfinite(dz)).all():
        return xp.matrix_transpose(dz) @ one_hot
    spoiled = xp.matrix_transpose(xp.astype(~finite, dz.dtype)) @ one_hot
    product = xp.matrix_transpose(xp.where(finite, dz, xp.zeros_like(dz))) @ one_hot
    return xp.where(spoiled > 0, xp.full_like(product, math.nan), product)


def _rows(xp: Any, a: Array) -> Array:
    """Reshape (T, m, ...) to two dimensions, T m rows."""
    return xp.reshape(a, (a.shape[0] * a.shape[1], math.prod(a.shape[2:])))


def _gates(z: Array, n: int) -> Arrays:
    """Split (..., G n) into G arrays (..., n)."""
    width = z.shape[-1]
    return (z,) if width == n else tuple([z[..., at : at + n] for at in range(0, width, n)])


def _stack(xp: Any, arrays: Sequence[Array], like: Array) -> Array:
    """Stack over time; `like` is a prototype for zero steps."""
    return xp.stack(list(arrays)) if arrays else xp.stack([like])[:0, ...]
