"""A product with weights as they are given, Z = init + H W^T, for few rows of H.

Packing weights takes longer than multiplying them by one row, so a single step that packed them would be slower than a
BLAS, which has matrix-vector products for that. Here weights are transposed in registers, where each vector has one
column, and multiplied by all rows of H at once.

The transposition costs more than the multiplications, as many CPUs have only one unit that moves numbers inside
vectors. Rows are therefore read in pieces of 16 bytes, and loads put the pieces of a vector side by side, which halves
the number of such moves. The sums are those of `gemm`: over k in ascending order, with the same bits. Each term of one
sum waits for the last one longer than the transposition takes, so whole vectors are multiplied in pairs.
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
    kernels: dict[int, Function] = {}
    for rows in range(1, most_rows() + 1):
        kernels[2 * rows] = one = _kernel(module, dtype, rows, 1)
        fits = rows <= machine().registers // 4
        kernels[2 * rows + 1] = _kernel(module, dtype, rows, 2) if fits else _twice(module, dtype, rows, one)
    f = Function(module, "direct", leaves.DIRECT, dtype, public=True)
    a = f.arguments
    has_two = f.build.zext(f.less(I64(f.lanes), a.count), I64)
    f.dispatch(f.sum(f.times(a.rows, 2), has_two), kernels, **vars(a))
    f.end()


def _of_vector(f: Function, number: int) -> dict[str, ir.Value]:
    """Return the arguments of a kernel for the first or second vector of two."""
    a, width = f.arguments, f.lanes * number
    init, z = (a.init, a.z) if number == 0 else (f.sum(a.init, a.next), f.sum(a.z, a.next))
    return {**vars(a), "w": f.sum(a.w, f.times(a.w_row, width)), "count": I64(f.lanes), "init": init, "z": z}


def _twice(module: ir.Module, dtype: Any, rows: int, kernel: Function) -> Function:
    """Emit a call of a kernel for each of two vectors."""
    f = Function(module, f"direct_{rows}_twice", leaves.DIRECT, dtype)
    for number in range(2):
        given = _of_vector(f, number)
        f.build.call(kernel.ir, [given[name] for name in leaves.DIRECT])
    return f.end()


class _Vector:
    """A vector of columns of a kernel: the rows of its weights, and where its sums begin and end.

    Row i is at the sum of an address and an offset, in whose order there are all rows. Of a `whole` vector, both are so
    few that they fit into the registers.
    """

    def __init__(self, f: Function, given: dict[str, ir.Value], rows: int, whole: bool) -> None:
        self._f, self._piece, a = f, f.of_lanes(_PIECE // f.itemsize), f.arguments
        last = f.sum(a.count, -1)
        numbers = range(self._piece.lanes) if whole else [f.least(r, last) for r in range(f.lanes)]
        self._offsets = [f.times(a.w_row, r) for r in numbers]
        self._addresses = [f.sum(given["w"], f.times(a.w_row, r)) for r in range(0, f.lanes, len(numbers))]
        self.inside = None if whole else f.first_lanes(a.count)
        self.places = [f.sum(given["z"], f.times(a.z_row, r)) for r in range(rows)]
        self.sums = [f.load_vector(f.sum(given["init"], f.times(a.init_row, r)), self.inside) for r in range(rows)]

    def columns(self, k: ir.Value, mask: ir.Value | None = None) -> list[ir.Value]:
        """Return the columns of a piece of every row."""
        f, along = self._f, self._f.times(k, self._f.itemsize)
        addresses = [f.sum(address, along) for address in self._addresses]
        pieces = [self._piece.load_vector(f.sum(at, offset), mask) for at in addresses for offset in self._offsets]
        return transposed(f, [f.joined(pieces[i :: self._piece.lanes]) for i in range(self._piece.lanes)])


def _kernel(module: ir.Module, dtype: Any, rows: int, n_vectors: int) -> Function:
    f = Function(module, f"direct_{rows}x{n_vectors}", leaves.DIRECT, dtype)
    a, piece = f.arguments, f.of_lanes(_PIECE // f.itemsize)
    given = [vars(a)] if n_vectors == 1 else [_of_vector(f, number) for number in range(n_vectors)]
    vectors = [_Vector(f, one, rows, n_vectors > 1) for one in given]
    h = [f.sum(a.h, f.times(a.h_row, r)) for r in range(rows)]
    sums = [total for vector in vectors for total in vector.sums]

    def more(k: ir.Value, columns: tuple[ir.Value, ...]) -> list[ir.Value]:
        """Return the sums with the terms of column k of every vector."""
        numbers = [f.spread(f.load(f.sum(row, f.times(k, f.itemsize)), f.real)) for row in h]
        pairs = [(column, x) for column in columns for x in numbers]
        return [f.intrinsic("fmuladd", *pair, total) for pair, total in zip(pairs, sums, strict=True)]

    whole = f.build.sub(a.n_k, f.build.srem(a.n_k, I64(f.lanes)))
    with f.loop(whole, step=f.lanes, carried=sums) as k:  # shorter steps would load the addresses of rows more often
        for begin in range(0, f.lanes, piece.lanes):
            of_all = [vector.columns(f.sum(k, begin)) for vector in vectors]
            for i, columns in enumerate(zip(*of_all, strict=True)):
                sums[:] = more(f.sum(k, begin + i), columns)
    with f.loop(a.n_k, whole, piece.lanes, carried=sums) as k:
        rest = f.build.sub(a.n_k, k)
        of_all = [vector.columns(k, piece.first_lanes(rest)) for vector in vectors]
        for i, columns in enumerate(zip(*of_all, strict=True)):
            is_there = f.less(I64(i), rest)
            totals = more(f.build.select(is_there, f.sum(k, i), k), columns)
            sums[:] = [f.build.select(is_there, new, old) for new, old in zip(totals, sums, strict=True)]
    for i, total in enumerate(sums):
        vector = vectors[i // rows]
        f.store_vector(total, vector.places[i % rows], vector.inside)
    return f.end()
