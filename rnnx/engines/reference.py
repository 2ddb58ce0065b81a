# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The reference engine: a Python loop over array API functions, without in-place writes, so it works under ``jax.jit``.

All other engines are tested against it.

Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of a stage.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import to_public, to_time_major, valid_steps
from rnnx._core.underflow import ignore_underflow, unused_errors
from rnnx.cells import Cell
from rnnx.cells.parameters import StageGradients, StageWeights, name_gradients, recurrent_parameters, stack_weights
from rnnx.cells.vocabulary import Ops, array_ops
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines import heads
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
        weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in wiring(cell)]
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
        weights = tape.own or [stack_weights(xp, stage, tape.parameters, tape.n_x, tape.n_a) for stage in wiring(cell)]
        with unused_errors(tape.lengths is not None):
            dZ, dE, ds0 = _loop_back(tape, cotangents, weights)
        rows = _one_hot(tape) if tape.indices else _rows(xp, tape.x)
        valid = None if tape.lengths is None else valid_steps(xp, tape.lengths, tape.n_steps)
        dX, gradients = None, []
        if not tape.indices and all(stage.n_zx == 0 for stage in wiring(cell)):
            dX = xp.zeros_like(rows)  # no gate has an input side
        for stage, w, sides in zip(wiring(cell), weights, dZ, strict=True):
            if not tape.indices and stage.n_zx:
                through = _rows(xp, _side(stage, sides, "dzx", stage.units(tape.n_a))) @ w.wx
                dX = through if dX is None else dX + through
            gradients.append(_stage_gradients(tape, stage, w, sides, rows))
        dx = None if dX is None else to_public(xp, _where(xp, valid, xp.reshape(dX, tape.x.shape)))
        named = name_gradients(xp, cell, tape.parameters, gradients, tape.n_x)
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
        self._weights = [stack_weights(xp, stage, parameters, call.n_x, call.n_a) for stage in wiring(call.cell)]
        self._stages = _prepared(xp, call.cell, self._weights, xp.matrix_transpose(call.s0[0]))

    @ignore_underflow
    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        xp = self._xp
        x, s = xp.matrix_transpose(xt), tuple(map(xp.matrix_transpose, self._states))
        sides = [x @ xp.matrix_transpose(w.wx) + w.b for w in self._weights]
        zx = [_gates(side, one.like.shape[1]) for side, one in zip(sides, self._stages, strict=True)]
        s, _ = _step(xp, self._stages, zx, s, [xp.matrix_transpose(e) for e in inputs])
        self._states = tuple(map(xp.matrix_transpose, s))
        return self._states

    def set(self, states: Arrays) -> None:
        self._states = states


def _loop(call: Call, X: Array, E: Arrays, weights: Weights, valid: Array | None, keep: bool) -> tuple[Arrays, Arrays]:
    """Return the states, each (T + 1, m, n), and the saved values, each (T, m, n)."""
    xp, cell = call.xp, call.cell
    s0 = tuple(map(xp.matrix_transpose, call.s0))
    stages = _prepared(xp, cell, weights, s0[0])
    pairs = zip(weights, stages, strict=True)
    Zx = [_gates(_input_side(call, X, w), one.like.shape[1]) for w, one in pairs]
    like = [_like(xp, s0[0], cell.size(name, call.n_a)) for name in cell.saved]
    states, saved = [s0], []
    for t in range(call.n_steps):
        zx = [tuple([z[t, ...] for z in gates]) for gates in Zx]
        s, values = _step(xp, stages, zx, states[-1], [e[t, ...] for e in E])
        if valid is not None:
            here = valid[t, ...]
            s = tuple(xp.where(here, new, old) for new, old in zip(s, states[-1], strict=True))
            values = tuple(_where(xp, here, v) for v in values)
        states.append(s)
        if keep:
            saved.append(values)
    S = tuple(xp.stack(list(column)) for column in zip(*states, strict=True))
    return S, tuple(_stack(xp, [v[k] for v in saved], like[k]) for k in range(len(cell.saved)))


def _input_side(call: Call, X: Array, w: StageWeights) -> Array:
    """Return W_x x + b for all steps, (T, m, G_x n); indices select columns of W_x."""
    xp, columns = call.xp, call.xp.matrix_transpose(w.wx)
    product = xp.take(columns, xp.reshape(X, (-1,)), axis=0) if call.indices else _rows(xp, X) @ columns
    return xp.reshape(product + w.b, (call.n_steps, call.m, w.b.shape[0]))


class _Places(NamedTuple):
    """The positions of a stage's values in a list of the values of a step: states before it, saved values, states
    after it. A list of cotangents is shorter, since a state has one, before and after a step.
    """

    reads: tuple[int, ...]
    results: tuple[int, ...]  # written and saved
    cotangents: tuple[int, ...]  # of those written
    operand: int
    n_values: int  # of a step
    n_states: int


@lru_cache(maxsize=256)
def _places(cell: Cell) -> tuple[_Places, ...]:
    """Return the positions of the values of every stage."""
    n_states, n_saved = len(cell.states), len(cell.saved)

    def positions(slots: Sequence[Slot], after: int = n_states + n_saved) -> tuple[int, ...]:
        offsets = [n_states if slot.kind == "saved" else after * slot.after for slot in slots]
        return tuple(offset + slot.number for offset, slot in zip(offsets, slots, strict=True))

    return tuple(
        _Places(
            positions(stage.reads),
            positions(stage.writes + stage.saves),
            positions(stage.writes, after=0),
            positions([stage.operand])[0],
            2 * n_states + n_saved,
            n_states,
        )
        for stage in wiring(cell)
    )


class _Stage(NamedTuple):
    """A stage and its parameters, prepared for the loop over time."""

    wiring: StageWiring
    ops: Ops
    wh: Array  # (G_h n, n_h)
    wh_t: Array
    bh: Array | None
    vectors: Arrays  # (m, n)
    like: Array  # (m, n)
    at: _Places

    def given(self, inputs: Sequence[Array]) -> Arrays:
        """Return the vectors and the extra inputs of a step, each (m, n)."""
        if not self.wiring.takes_given:
            return ()
        return (*self.vectors, *[inputs[slot.number] for slot in self.wiring.inputs])


def _prepared(xp: Any, cell: Cell, weights: Weights, like: Array) -> list[_Stage]:
    """Prepare the stages for a first state like (m, n_a)."""
    stages = []
    for stage, w, at in zip(wiring(cell), weights, _places(cell), strict=True):
        own = _like(xp, like, stage.units(like.shape[1]))
        vectors = tuple(xp.broadcast_to(v, own.shape) for v in w.vectors)
        stages.append(_Stage(stage, array_ops(xp), w.wh, xp.matrix_transpose(w.wh), w.bh, vectors, own, at))
    return stages


def _like(xp: Any, a: Array, units: int) -> Array:
    """Return an array like (m, n_a) with this number of units."""
    return a if a.shape[1] == units else xp.zeros((a.shape[0], units), dtype=a.dtype, device=ns.device(a))


def _step(
    xp: Any, stages: Sequence[_Stage], zx: Sequence[Arrays], s: Arrays, inputs: Sequence[Array]
) -> tuple[Arrays, Arrays]:
    """Run one step, given each stage's input sides by gate; return the new states and the saved values."""
    n_states = len(s)
    values: list[Any] = [*s, *[None] * (stages[0].at.n_values - n_states)]
    for one, sides in zip(stages, zx, strict=True):
        at, wiring = one.at, one.wiring
        operand = values[at.operand]
        zh = operand @ one.wh_t if wiring.heads == 1 else heads.times_transpose(xp, operand, one.wh_t, wiring.heads)
        if one.bh is not None:
            zh = zh + one.bh
        reads = tuple([values[k] for k in at.reads])
        new, kept = wiring.forward(one.ops, sides, _gates(zh, one.like.shape[1]), reads, one.given(inputs))
        for k, value in zip(at.results, (*new, *kept), strict=True):
            values[k] = value
    return tuple(values[-n_states:]), tuple(values[n_states:-n_states])


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
        one = _like(xp, ds[0], n_units := stage.units(tape.n_a))
        like = {role: xp.concat([one] * max(n, 1), axis=1)[:, : n * n_units] for role, n in n_blocks.items()}
        over_time = {role: _stack(xp, [sides[i][role] for sides, _ in steps], like[role]) for role in n_blocks}
        dZ.append({role: _where(xp, valid, dz) for role, dz in over_time.items()})
    like_inputs = [_like(xp, ds[0], e.shape[2]) for e in tape.inputs]
    dE = tuple(_stack(xp, [d[k] for _, d in steps], one) for k, one in enumerate(like_inputs))
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
    n_states, d_inputs = len(ds), [None] * len(inputs)
    carried: list[Any] = [*ds, *[None] * (stages[0].stage.at.n_values - 2 * n_states)]
    for one, *values in stages:
        at, wiring = one.at, one.wiring
        reads, writes, saves = [tuple([a[t, ...] for a in arrays]) for arrays in values]
        d_writes = tuple([carried[k] for k in at.cotangents])
        rows, d_reads, d_own = wiring.backward(one.ops, d_writes, reads, writes, saves, one.given(inputs))
        for k, d in zip(at.reads, d_reads, strict=True):
            carried[k] = d
        sides = {role: _join_blocks(xp, blocks, one.like) for role, blocks in rows.items()}
        if wiring.n_zh:
            dzh = _side(wiring, sides, "dzh", one.like.shape[1])
            carried[at.operand] = carried[at.operand] + heads.times(xp, dzh, one.wh, wiring.heads)
        found.append(sides)
        for k, d in enumerate(d_own):
            d_inputs[wiring.inputs[k].number] = d
    return found[::-1], tuple(d_inputs), tuple(carried[:n_states])


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


def _stage_gradients(tape: Tape, stage: StageWiring, w: StageWeights, sides: Sides, rows: Array) -> StageGradients:
    """Return the gradients of a stage's parameters; `rows` are the inputs, (T m, n_x)."""
    xp, n = tape.xp, stage.units(tape.n_a)

    def pad(part: Array, before: int = 0, after: int = 0) -> Array:
        """Add blocks of n zero rows."""
        zeros = [xp.zeros((k * n, *part.shape[1:]), dtype=part.dtype) if k else None for k in (before, after)]
        return xp.concat([a for a in (zeros[0], part, zeros[1]) if a is not None], axis=0)

    dzx, dzh = (_rows(xp, _side(stage, sides, role, n)) for role in ("dzx", "dzh"))
    operand = _rows(xp, _over_time(tape, stage.operand))
    of_inputs = _scatter_add(xp, dzx, rows) if tape.indices else xp.matrix_transpose(dzx) @ rows
    only_h, only_x = stage.n_gates - stage.n_zx, stage.n_gates - stage.n_zh
    of_operand = heads.gradient(xp, dzh, operand, w.wh, stage.heads)
    dw = xp.concat((pad(of_operand, after=only_x), pad(of_inputs, before=only_h)), axis=1)
    b = pad(xp.sum(_rows(xp, sides["dzx"]), axis=0), before=0 if stage.stage.additive else only_h)
    bh = pad(xp.sum(dzh, axis=0), after=only_x) if w.bh is not None else None
    return StageGradients(dw, b, bh)


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
