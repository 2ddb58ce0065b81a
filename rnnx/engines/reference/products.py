"""The products of a whole sequence, before and after the loop over time. Dimensions as in `engine`."""

import math
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells.parameters import StageGradients, StageWeights
from rnnx.cells.wiring import Slot, StageWiring
from rnnx.engines import heads
from rnnx.engines.protocol import Arrays, Call, Tape

Sides = dict[str, Array]  # "dzx" and "dzh", see `StageWiring.blocks`


def input_side(call: Call, X: Array, w: StageWeights) -> Array:
    """Return W_x x + b for all steps, (T, m, G_x n); indices select columns of W_x."""
    xp, columns = call.xp, call.xp.matrix_transpose(w.wx)
    product = ns.take(xp, columns, xp.reshape(X, (-1,)), axis=0) if call.indices else rows_of(xp, X) @ columns
    return xp.reshape(product + w.b, (call.n_steps, call.m, w.b.shape[0]))


def side_of(stage: StageWiring, sides: Sides, role: str, n: int) -> Array:
    """Return the blocks of the gates with one side, of arrays (..., blocks n)."""
    first, count = stage.blocks[role].start, stage.n_zx if role == "dzx" else stage.n_zh
    side = sides[role if role in sides else "dzx"]
    return side if side.shape[-1] == count * n else side[..., first * n : (first + count) * n]


def stage_gradients(tape: Tape, stage: StageWiring, w: StageWeights, sides: Sides, rows: Array) -> StageGradients:
    """Return the gradients of a stage's parameters; `rows` are the inputs, (T m, n_x)."""
    xp, n = tape.xp, stage.units(tape.n_a)

    def pad(part: Array, before: int = 0, after: int = 0) -> Array:
        """Add blocks of n zero rows."""
        zeros = [xp.zeros((k * n, *part.shape[1:]), dtype=part.dtype) if k else None for k in (before, after)]
        return xp.concat([a for a in (zeros[0], part, zeros[1]) if a is not None], axis=0)

    dzx, dzh = (rows_of(xp, side_of(stage, sides, role, n)) for role in ("dzx", "dzh"))
    operand = rows_of(xp, over_time(tape, stage.operand))
    of_inputs = _scatter_add(xp, dzx, rows) if tape.indices else xp.matrix_transpose(dzx) @ rows
    only_h, only_x = stage.only_h, stage.n_gates - stage.n_zh
    of_operand = heads.gradient(xp, dzh, operand, w.wh, stage.heads)
    dw = xp.concat((pad(of_operand, after=only_x), pad(of_inputs, before=only_h)), axis=1)
    b = pad(xp.sum(rows_of(xp, sides["dzx"]), axis=0), before=0 if stage.stage.additive else only_h)
    bh = pad(xp.sum(dzh, axis=0), after=only_x) if w.bh is not None else None
    return StageGradients(dw, b, bh)


def over_time(tape: Tape, slot: Slot) -> Array:
    """Return the values of a slot at all steps, (T, m, n)."""
    if slot.kind == "state":
        states = tape.states[slot.number]
        return states[1:, :, :] if slot.after else states[: tape.n_steps, :, :]
    assert tape.saved is not None
    return tape.saved[slot.number]


def masked(xp: Any, valid: Array | None, a: Array) -> Array:
    """Replace `a` past each length by zero; None means full lengths."""
    return a if valid is None else xp.where(valid, a, xp.zeros_like(a))


def one_hot(tape: Tape) -> Array:
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


def rows_of(xp: Any, a: Array) -> Array:
    """Reshape (T, m, ...) to two dimensions, T m rows."""
    return xp.reshape(a, (a.shape[0] * a.shape[1], math.prod(a.shape[2:])))


def gates_of(z: Array, n: int) -> Arrays:
    """Split (..., G n) into G arrays (..., n)."""
    width = z.shape[-1]
    return (z,) if width == n else tuple([z[..., at : at + n] for at in range(0, width, n)])
