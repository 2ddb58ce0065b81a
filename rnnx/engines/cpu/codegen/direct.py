"""A product with weights as they are given, Z = init + H W^T, for few rows of H.

Packing weights takes longer than multiplying them by one row, so a single step that packed them would be slower than a
BLAS, which has matrix-vector products for that. Here a square of weights, L rows by L columns, is transposed in
registers, where each of its vectors has one column, and multiplied by all rows of H at once.

The rows that follow, usually the next ones to be read, are prefetched. The sums are those of `gemm`: over k in
ascending order, with the same bits.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.copy import transposed
from rnnx.engines.cpu.codegen.ir import I64, Function, machine

_MOST_ROWS = {32: 8, 16: 4}  # by number of registers: those that hold sums, beside a square


def most_rows() -> int:
    """Return for how many rows of H there is such a product; 0 where a part of a vector cannot be stored at once."""
    return _MOST_ROWS[machine().registers] if machine().vector_bytes > 16 else 0


def emit_direct(module: ir.Module, dtype: Any) -> None:
    """Emit direct, with the arguments declared in `leaves`."""
    kernels = {rows: _kernel(module, dtype, rows) for rows in range(1, most_rows() + 1)}
    f = Function(module, "direct", leaves.DIRECT, dtype, public=True)
    f.dispatch(f.arguments.rows, kernels, **vars(f.arguments))
    f.end()


def _kernel(module: ir.Module, dtype: Any, rows: int) -> Function:
    f = Function(module, f"direct_{rows}", leaves.DIRECT, dtype)
    a, last = f.arguments, f.sum(f.arguments.count, -1)
    weights = [f.sum(a.w, f.times(a.w_row, f.least(r, last))) for r in range(f.lanes)]
    h = [f.sum(a.h, f.times(a.h_row, r)) for r in range(rows)]
    inside = f.first_lanes(a.count)
    sums = [f.load_vector(f.sum(a.init, f.times(a.init_row, r)), inside) for r in range(rows)]

    def square(k: ir.Value, mask: ir.Value | None = None) -> list[ir.Value]:
        return transposed(f, [f.load_vector(f.sum(row, f.times(k, f.itemsize)), mask) for row in weights])

    def add(k: ir.Value, column: ir.Value) -> None:
        for r, row in enumerate(h):
            number = f.spread(f.load(f.sum(row, f.times(k, f.itemsize)), f.real))
            sums[r] = f.intrinsic("fmuladd", column, number, sums[r])

    whole = f.build.sub(a.n_k, f.build.srem(a.n_k, I64(f.lanes)))
    with f.loop(whole, step=f.lanes, carried=sums) as k:
        for row in weights:
            f.prefetch(f.sum(row, f.times(a.w_row, f.lanes), f.times(k, f.itemsize)))
        for i, column in enumerate(square(k)):
            add(f.sum(k, i), column)
    size = f.lanes * f.itemsize
    stack = f.build.ptrtoint(f.build.alloca(f.vector, f.lanes), I64)  # for the columns that are left
    with f.loop(a.n_k, whole, f.lanes, carried=sums) as k:
        rest = f.build.sub(a.n_k, k)
        for i, column in enumerate(square(k, f.first_lanes(rest))):
            f.store_vector(column, f.sum(stack, i * size))
        with f.loop(rest, carried=sums) as i:
            add(f.sum(k, i), f.load_vector(f.sum(stack, f.times(i, size))))
    for r, total in enumerate(sums):
        f.store_vector(total, f.sum(a.z, f.times(a.z_row, r)), inside)
    return f.end()
