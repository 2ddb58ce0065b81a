"""The loops over time. Dimensions as in `engine`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import to_time_major, valid_steps
from rnnx.cells import Cell
from rnnx.cells.parameters import StageWeights
from rnnx.cells.vocabulary import Ops, array_ops
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines import heads
from rnnx.engines.protocol import Arrays, Call, Cotangents, Tape
from rnnx.engines.reference.products import Sides, gates_of, input_side, masked, over_time, side_of

Weights = Sequence[StageWeights]


def loop(call: Call, X: Array, E: Arrays, weights: Weights, valid: Array | None, keep: bool) -> tuple[Arrays, Arrays]:
    """Return the states, each (T + 1, m, n), and the saved values, each (T, m, n)."""
    xp, cell = call.xp, call.cell
    s0 = tuple(map(xp.matrix_transpose, call.s0))
    stages = prepared(xp, cell, weights, s0[0])
    pairs = zip(weights, stages, strict=True)
    Zx = [gates_of(input_side(call, X, w), one.like.shape[1]) for w, one in pairs]
    like = [_like(xp, s0[0], cell.size(name, call.n_a)) for name in cell.saved]
    states, saved = [s0], []
    for t in range(call.n_steps):
        zx = [tuple([z[t, ...] for z in gates]) for gates in Zx]
        s, values = step(xp, stages, zx, states[-1], [e[t, ...] for e in E])
        if valid is not None:
            here = valid[t, ...]
            s = tuple(xp.where(here, new, old) for new, old in zip(s, states[-1], strict=True))
            values = tuple(masked(xp, here, v) for v in values)
        states.append(s)
        if keep:
            saved.append(values)
    S = tuple(xp.stack(list(column)) for column in zip(*states, strict=True))
    return S, tuple(_stack(xp, [v[k] for v in saved], like[k]) for k in range(len(cell.saved)))


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


class Prepared(NamedTuple):
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


def prepared(xp: Any, cell: Cell, weights: Weights, like: Array) -> list[Prepared]:
    """Prepare the stages for a first state like (m, n_a)."""
    stages = []
    for stage, w, at in zip(wiring(cell), weights, _places(cell), strict=True):
        own = _like(xp, like, stage.units(like.shape[1]))
        vectors = tuple([xp.broadcast_to(v, own.shape) for v in w.vectors])
        stages.append(Prepared(stage, array_ops(xp), w.wh, w.wh.T, w.bh, vectors, own, at))
    return stages


def _like(xp: Any, a: Array, units: int) -> Array:
    """Return an array like (m, n_a) with this number of units."""
    return a if a.shape[1] == units else xp.zeros((a.shape[0], units), dtype=a.dtype, device=ns.device(a))


def step(
    xp: Any, stages: Sequence[Prepared], zx: Sequence[Arrays], s: Arrays, inputs: Sequence[Array]
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
        new, kept = wiring.forward(one.ops, sides, gates_of(zh, one.like.shape[1]), reads, one.given(inputs))
        for k, value in zip(at.results, (*new, *kept), strict=True):
            values[k] = value
    return tuple(values[-n_states:]), tuple(values[n_states:-n_states])


def loop_back(tape: Tape, cotangents: Cotangents, weights: Weights) -> tuple[list[Sides], Arrays, Arrays]:
    """Return the cotangents of zx and zh per stage and of the extra inputs, over time, and of the initial states."""
    xp = tape.xp
    valid = None if tape.lengths is None else valid_steps(xp, tape.lengths, tape.n_steps)
    dS = tuple(None if d is None else masked(xp, valid, to_time_major(xp, d)) for d in cotangents.states)
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
        stacked = {role: _stack(xp, [sides[i][role] for sides, _ in steps], like[role]) for role in n_blocks}
        dZ.append({role: masked(xp, valid, dz) for role, dz in stacked.items()})
    like_inputs = [_like(xp, ds[0], e.shape[2]) for e in tape.inputs]
    dE = tuple(_stack(xp, [d[k] for _, d in steps], one) for k, one in enumerate(like_inputs))
    return dZ, dE, ds


class _StageBack(NamedTuple):
    """A stage, and the values over time that its backward function reads."""

    stage: Prepared
    reads: Arrays
    writes: Arrays
    saves: Arrays


def _prepared_back(tape: Tape, weights: Weights, like: Array) -> list[_StageBack]:
    """Prepare the stages for a backward pass, the last one first."""
    stages = [
        _StageBack(one, *(tuple(over_time(tape, slot) for slot in slots) for slots in one.wiring.values))
        for one in prepared(tape.xp, tape.cell, weights, like)
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
            dzh = side_of(wiring, sides, "dzh", one.like.shape[1])
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


def _stack(xp: Any, arrays: Sequence[Array], like: Array) -> Array:
    """Stack over time; `like` is a prototype for zero steps."""
    return xp.stack(list(arrays)) if arrays else xp.stack([like])[:0, ...]
