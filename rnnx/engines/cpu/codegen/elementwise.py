"""Kernels over tables of arrays: elementwise rules (see `rnnx.engines.operations`), and the sum of squares.

A row of a table is a number of elements, and the addresses of arrays with so many.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I64, Function
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector, across

_DOUBLE = ir.DoubleType()

Body = Callable[[list[ir.Value], Any], None]  # of the places of a vector in all arrays, and its mask


def emit_elementwise(module: ir.Module, rule: Any, names: Sequence[str], n_arrays: int, dtype: Any) -> int:
    """Emit the kernel `elementwise` of a rule with these numbers; return the number of its results."""
    scratch = _Table(ir.Module(), "scratch", dtype, names)
    n_results = len(rule(scratch.ops, scratch.numbers, *[Vector(scratch.f, scratch.f.constant(1))] * n_arrays))
    table = _Table(module, "elementwise", dtype, names)
    f = table.f

    def body(places: list[ir.Value], mask: ir.Value | None) -> None:
        arrays = [Vector(f, f.load_vector(place, mask)) for place in places[:n_arrays]]
        for place, result in zip(places[n_arrays:], rule(table.ops, table.numbers, *arrays), strict=True):
            f.store_vector(result.value, place, mask)

    table.emit(n_arrays + n_results, body)
    f.end()
    return n_results


def emit_squares(module: ir.Module, dtype: Any) -> None:
    """Emit the kernel `squares`, which writes the sum of the squares of all numbers, in float64, to `numbers`."""
    f = (table := _Table(module, "squares", dtype, ())).f
    wide = f.widened() if f.itemsize == 4 else f
    carried = [wide.constant(0)]

    def body(places: list[ir.Value], mask: ir.Value | None) -> None:
        x = Vector(f, f.load_vector(places[0], mask))
        x = x.widened() if f.itemsize == 4 else x
        carried[0] = (Vector(wide, carried[0]) + x * x).value

    table.emit(1, body, carried)
    total = across(wide, carried[0], wide.build.fadd)
    wide.store_vector(total, f.arguments.numbers)
    f.end()


class _Table:
    """A kernel under construction."""

    def __init__(self, module: ir.Module, name: str, dtype: Any, names: Sequence[str]) -> None:
        self.f = f = Function(module, name, leaves.ELEMENTWISE, dtype, public=True)
        f.contracts = False  # so that a result has the bits of one operation after the other
        self.ops, self.numbers = make_ops(dtype), {}
        for k, key in enumerate(names):
            number = f.load(f.sum(f.arguments.numbers, 8 * k), _DOUBLE)
            self.numbers[key] = Vector(f, f.spread(number if f.itemsize == 8 else f.build.fptrunc(number, f.real)))

    def emit(self, n_arrays: int, body: Body, carried: list[ir.Value] | None = None) -> None:
        """Emit the loops over the rows of the table and over all vectors of a row."""
        f = self.f
        with f.loop(f.arguments.rows, carried=carried) as r:
            at = f.sum(f.arguments.table, f.times(r, 8 * (1 + n_arrays)))
            n, *arrays = [f.load(f.sum(at, 8 * k), I64) for k in range(1 + n_arrays)]
            whole = f.build.sdiv(n, I64(f.lanes))
            tail = f.build.srem(n, I64(f.lanes))
            for mask in (None, f.first_lanes(tail)):
                stop = whole if mask is None else f.sum(whole, f.build.zext(f.less(I64(0), tail), I64))
                with f.loop(stop, 0 if mask is None else whole, carried=carried) as v:
                    offset = f.times(v, f.lanes * f.itemsize)
                    body([f.sum(place, offset) for place in arrays], mask)
