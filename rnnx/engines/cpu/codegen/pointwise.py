"""Elementwise kernels of a cell, traced from its own functions with symbolic vectors.

A kernel runs one stage of one time step on rows (examples) by vectors (of units). Its array arguments are those of
`rnnx.cells.wiring`. The variant "_tail" writes only the first `tail` units of one vector.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from rnnx.cells import Cell
from rnnx.cells.operations import operations_of
from rnnx.cells.wiring import Argument, StageWiring, wiring
from rnnx.engines.cpu.codegen.ir import I64
from rnnx.engines.cpu.codegen.kernel import Kernel
from rnnx.engines.cpu.codegen.phases import phases_of
from rnnx.engines.cpu.codegen.rows import emit_rows
from rnnx.engines.cpu.codegen.vectors import Vector

_FROM_CELLS = frozenset({"mean", "erf", "gelu"})  # words that are computed with functions of `rnnx.cells`


def backward_arguments(stage: StageWiring, given: Sequence[bool]) -> list[Argument]:
    """Arguments of the backward kernel. `given` tells for which states the caller gives cotangents.

    Role "d_vectors": the sums over time of the gradients of the vectors, which the kernel adds to, by example.
    """
    of_writes = [given[slot.number] for slot in stage.writes] if stage.is_last else []
    arguments = [a for a in stage.backward_arguments() if a.role != "d_given" or of_writes[a.number]]
    return [*arguments, *(Argument("d_vectors", k, slot) for k, slot in enumerate(stage.vectors))]


def emit_kernels(module: ir.Module, cell: Cell, dtype: Any, given: Sequence[bool]) -> None:
    """Emit forward_<i>, backward_<i> and their _tail variants for all stages i; no variant if there are means."""
    for i, stage in enumerate(wiring(cell)):
        of_jobs = {"forward": stage.forward_arguments(), "backward": backward_arguments(stage, given)}
        for tail in (False, True):
            for job, arguments in of_jobs.items():
                phases = phases_of(stage, job, tuple(given))
                if phases and not tail:
                    emit_rows(Kernel(module, f"{job}_{i}", dtype, tail, arguments), stage, phases)
                elif not phases:
                    emit = _forward if job == "forward" else _backward
                    emit(Kernel(module, f"{job}_{i}{'_tail' if tail else ''}", dtype, tail, arguments), stage)


def dependencies(cell: Cell, given: Sequence[bool]) -> str | None:
    """Return all that the kernels depend on but the dtype and the source of the CPU engine; None if there is more."""
    stages = []
    for stage in wiring(cell):
        operations, text = operations_of(stage)
        if text is None or not operations.isdisjoint(_FROM_CELLS):
            return None
        arguments = stage.forward_arguments(), backward_arguments(stage, given)
        stages.append(repr((arguments, stage.n_zx, stage.n_zh, stage.heads, stage.adds_sides, text)))
    return "\n".join(stages)


class _Piece(NamedTuple):
    """A vector of a row, or the tail of one."""

    j: ir.Value  # the number of the row
    row: ir.Value  # its offset in arrays with one number per unit
    column: ir.Value  # that of the vector in the row


def _forward(kernel: Kernel, stage: StageWiring) -> None:
    """Emit a forward kernel, which takes two vectors at a time: most of it is chains of dependent instructions.

    They are side by side, but the last of an odd number is taken together with that of the next row. Tails of more rows
    fill two vectors.
    """
    f, vectors, done = kernel.f, I64(0), I64(0)
    size, rows = f.lanes, f.arguments.rows
    if kernel.mask is None:
        vectors = f.build.and_(f.arguments.vectors, I64(-2))
        with f.loop(rows) as j:
            row = kernel.row_of(j)
            with f.loop(vectors, step=2) as v:
                pair = [_Piece(j, row, f.times(f.sum(v, i), kernel.size)) for i in range(2)]
                _forward_at(kernel.paired(size), stage, pair)
    column = f.times(vectors, kernel.size)
    left = f.build.select(f.less(vectors, f.arguments.vectors), rows, I64(0))

    def of_rows(at: Kernel, count: int, done: ir.Value, stop: ir.Value) -> None:
        with f.loop(stop, done, step=count) as first:
            of_all = [f.sum(first, i) for i in range(count)]
            _forward_at(at, stage, [_Piece(j, kernel.row_of(j), column) for j in of_all])

    for lanes in (size // 4, size // 2, size) if kernel.mask is not None else (size,):
        if lanes > 1:
            count = 2 * size // lanes
            fits = f.build.select(f.less(I64(lanes), kernel.tail), I64(0), I64(-count))
            stop = f.sum(done, f.build.and_(f.build.sub(left, done), fits))
            of_rows(kernel.paired(lanes), count, done, stop)
            done = stop
    of_rows(kernel, 1, done, left)
    f.end()


def _forward_at(kernel: Kernel, stage: StageWiring, pieces: Sequence[_Piece]) -> None:
    """Emit the forward mathematics of some pieces. In zx and zh, each of G gates, gate g of unit vector v is at
    v G L + g w, where w is the number of its units, L or the tail; but with heads, zh is (rows, G, n).
    """
    f = kernel.f
    offsets, columns = [f.sum(p.row, p.column) for p in pieces], [p.column for p in pieces]

    def side(role: str, n_gates: int) -> tuple[Vector, ...]:
        if not n_gates:
            return ()
        by_gate = role == "zh" and stage.heads > 1
        width, stride = (1, kernel.row) if by_gate else (n_gates, kernel.gate_stride())
        of_pieces = [f.sum(f.times(p.j, kernel.side_rows[role]), f.times(p.column, width)) for p in pieces]
        (places,) = kernel.places(role, of_pieces)
        return tuple(kernel.load_at([f.sum(place, f.times(stride, g)) for place in places]) for g in range(n_gates))

    zx = side("zx", stage.n_zx)
    # If the engine adds the sides, zx is the sum; adding -0.0 is exact.
    zh = (Vector(f, f.constant(-0.0)),) * stage.n_zh if stage.adds_sides else side("zh", stage.n_zh)
    new, saved = stage.forward(kernel.ops, zx, zh, kernel.load("reads", offsets), kernel.load_given(offsets, columns))
    kernel.store(new, kernel.places("writes", offsets))
    kernel.store(saved, kernel.places("saves", offsets))


def _backward(kernel: Kernel, stage: StageWiring) -> None:
    """Emit a backward kernel. dzx and dzh are (rows, blocks, n)."""
    f = kernel.f
    with f.loop(f.arguments.rows) as j, f.loop(f.arguments.vectors) as v:
        column = f.times(v, kernel.size)
        at = [f.sum(kernel.row_of(j), column)]
        numbers = [a.number for a in kernel.addresses if a.role == "d_given"]
        d_given, ds = kernel.load("d_given", at), list(kernel.load("d_writes", at))
        for i, d in zip(numbers, d_given, strict=True):
            ds[i] = ds[i] + d
        s_prev, s_next, saved = (kernel.load(role, at) for role in ("reads", "writes", "saves"))
        given = kernel.load_given(at, [column])
        rows, ds_prev, d_inputs = stage.backward(kernel.ops, tuple(ds), s_prev, s_next, saved, given)
        n_gates = len(rows["dzx"]) - len(stage.vectors)
        kernel.add(rows["dzx"][n_gates:], kernel.places("d_vectors", at))
        rows["dzx"] = rows["dzx"][:n_gates]
        for role, dz in rows.items():
            for (place,) in kernel.places(role, [f.sum(f.times(j, kernel.side_rows[role[1:]]), column)]):
                kernel.store(dz, [[f.sum(place, f.times(kernel.row, g))] for g in range(len(dz))])
        kernel.store(ds_prev, kernel.places("d_reads", at))
        kernel.store(d_inputs, kernel.places("d_inputs", at))
    f.end()
