"""Values of a forward pass that a tape lacks, computed again."""

from collections.abc import Mapping
from typing import Any

from rnnx import engines
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.cells import Cell
from rnnx.cells.missing import missing_values
from rnnx.cells.vocabulary import array_ops
from rnnx.cells.wiring import Slot
from rnnx.engines.protocol import Call, Tape


@ignore_harmless_errors
def completed(tape: Tape, cell: Cell, saved: Mapping[str, Array]) -> dict[str, Array]:
    """Return all saved values of a tape, given some of them, each (T, m, n).

    They are computed from those given, as far as possible: the caller may have changed `xt` or parameters since.
    """
    parts = missing_values(cell, frozenset(saved))
    if parts is None:
        return {**replayed(tape, cell), **saved}
    values = {Slot("state", k): s[: tape.n_steps, ...] for k, s in enumerate(tape.states)}
    values |= {Slot("saved", k): saved[name] for k, name in enumerate(cell.saved) if name in saved}
    for program, operands, results in parts:
        found = program(array_ops(tape.xp), *[values[slot] for slot in operands])
        values |= dict(zip(results, found, strict=True))
    return {name: values[Slot("saved", k)] for k, name in enumerate(cell.saved)}


def replayed(tape: Tape, cell: Cell) -> dict[str, Array]:
    """Recompute all saved values of a cell with the same states and parameters as the tape's, each (T, m, n).

    All steps run at once, as examples of a single step.
    """
    xp, side_by_side = tape.xp, tape.n_steps * tape.m

    def columns(a: Array, n: int) -> Array:
        return xp.matrix_transpose(xp.reshape(a, (side_by_side, n)))

    s0 = tuple(columns(s[: tape.n_steps, :, :], s.shape[2]) for s in tape.states)
    x = tape.x if tape.indices else columns(tape.x, tape.n_x)
    x = xp.reshape(x, (side_by_side, 1)) if tape.indices else xp.expand_dims(x, axis=2)
    inputs = tuple(xp.expand_dims(columns(e, e.shape[2]), axis=2) for e in tape.inputs)
    call = Call(cell, xp, tape.dtype, x, tape.indices, tape.n_x, s0, dict(tape.parameters), None, inputs)
    engine: Any = engines.load("reference")
    if tape.indices:
        saved = [value[0, ...] for value in engine.forward(call, keep=True)[1].saved]
    else:
        saved = [value.T for value in engine.one_step(call)[1]]
    shape = (tape.n_steps, tape.m)
    return {name: xp.reshape(value, (*shape, value.shape[1])) for name, value in zip(cell.saved, saved, strict=True)}
