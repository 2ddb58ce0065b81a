"""A product with weights as they are given, Z = init + H W^T, for few rows of H.

Packing weights takes longer than multiplying them by one row, so a single step that packed them would be slower than a
BLAS, which has matrix-vector products for that. Here weights are transposed in registers, where each vector has one
column, and multiplied by all rows of H at once.

The transposition costs more than the multiplications, as many CPUs have only one unit that moves numbers inside
vectors. Rows are therefore read in pieces of 16 bytes, and loads put the pieces of a vector side by side, which halves
the number of such moves. The sums are those of `gemm`: over k in ascending order, with the same bits.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.copy import transposed
from rnnx.engines.cpu.codegen.ir import I64, Function, machine

_MOST_ROWS = 8  # whose sums fit into the registers of any CPU, beside a piece of all rows of weights
_PIECE = 16  # bytes


def most_rows() -> int:
    """Return for how many rows of H there is such a product; 0 where a part of a vector cannot be stored at once."""
    return _MOST_ROWS if machine().vector_bytes > 16 else 0


def emit_direct(module: ir.Module, dtype: Any) -> None:
    """Emit direct, with the arguments declared in `leaves`."""
    kernels = {rows: _kernel(module, dtype, rows) for rows in range(1, most_rows() + 1)}
    f = Function(module, "direct", leaves.DIRECT, dtype, public=True)
    f.dispatch(f.arguments.rows, kernels, **vars(f.arguments))
    f.end()


def _kernel(module: ir.Module, dtype: Any, rows: int) -> Function:
    f = Function(module, f"direct_{rows}", leaves.DIRECT, dtype)
    a, last = f.arguments, f.sum(f.arguments.count, -1)
    piece = f.of_lanes(_PIECE // f.itemsize)
    weights = [f.sum(a.w, f.times(a.w_row, f.least(r, last))) for r in range(f.lanes)]
    h = [f.sum(a.h, f.times(a.h_row, r)) for r in range(rows)]
    inside = f.first_lanes(a.count)
    sums = [f.load_vector(f.sum(a.init, f.times(a.init_row, r)), inside) for r in range(rows)]

    def columns(k: ir.Value, mask: ir.Value | None = None) -> list[ir.Value]:
        """Return the columns of a piece of every row."""
        pieces = [piece.load_vector(f.sum(row, f.times(k, f.itemsize)), mask) for row in weights]
        return transposed(f, [f.joined(pieces[i :: piece.lanes]) for i in range(piece.lanes)])

    def more(k: ir.Value, column: ir.Value) -> list[ir.Value]:
        """Return the sums with the terms of column k."""
        numbers = [f.load(f.sum(row, f.times(k, f.itemsize)), f.real) for row in h]
        return [f.intrinsic("fmuladd", column, f.spread(x), total) for x, total in zip(numbers, sums, strict=True)]

    whole = f.build.sub(a.n_k, f.build.srem(a.n_k, I64(f.lanes)))
    with f.loop(whole, step=f.lanes, carried=sums) as k:  # shorter steps would load the addresses of rows more often
        for begin in range(0, f.lanes, piece.lanes):
            for i, column in enumerate(columns(f.sum(k, begin))):
                sums[:] = more(f.sum(k, begin + i), column)
    with f.loop(a.n_k, whole, piece.lanes, carried=sums) as k:
        rest = f.build.sub(a.n_k, k)
        for i, column in enumerate(columns(k, piece.first_lanes(rest))):
            is_there = f.less(I64(i), rest)
            totals = more(f.build.select(is_there, f.sum(k, i), k), column)
            sums[:] = [f.build.select(is_there, new, old) for new, old in zip(totals, sums, strict=True)]
    for r, total in enumerate(sums):
        f.store_vector(total, f.sum(a.z, f.times(a.z_row, r)), inside)
    return f.end()
