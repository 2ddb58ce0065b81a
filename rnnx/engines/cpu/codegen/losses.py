"""Kernels of losses over rows; see `rnnx.engines.operations.Loss`."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from rnnx.cells.vocabulary import Condition
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function, integers
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector, across

_DOUBLE = ir.DoubleType()


def emit_loss(module: ir.Module, loss: Any, dtype: Any, weighted: bool) -> None:
    """Emit the kernel `loss`."""
    f = Function(module, "loss", leaves.LOSS, dtype, public=True)
    a = f.arguments
    row_bytes = f.times(a.n, loss.parts * f.itemsize)
    count = f.load(a.count, _DOUBLE)

    def part(weight: ir.Value) -> Vector:  # of a row in the mean
        quotient = f.build.fdiv(weight, count)
        return Vector(f, f.spread(quotient if f.itemsize == 8 else f.build.fptrunc(quotient, f.real)))

    weight, share = None, part(ir.Constant(_DOUBLE, 1))
    with f.loop(a.n_steps) as t, f.loop(a.m) as j:
        number = f.sum(f.times(t, a.m), j)
        at = f.times(number, row_bytes)
        target = f.sum(a.target, f.times(t, a.target_step), f.times(j, a.target_row))
        row = _Row(f, loss, dtype, f.sum(a.y, at), target)
        is_inside = f.less(t, f.load(f.sum(a.lengths, f.times(j, 8)), I64))
        if weighted:
            weight = f.load(f.sum(a.weights, f.times(number, f.itemsize)), f.real)
            weight = weight if f.itemsize == 8 else f.build.fpext(weight, _DOUBLE)
            is_inside = f.build.and_(is_inside, f.build.fcmp_unordered("!=", weight, ir.Constant(_DOUBLE, 0)))
            share = part(weight)
        inside, place = f.build.zext(is_inside, I64), f.pointer(f.sum(a.values, f.times(number, 8)), _DOUBLE)
        with f.loop(inside):
            f.build.store(row.emit(f.sum(a.gradient, at), share, weight), place)
        with f.loop(I64(1), inside):
            f.build.store(ir.Constant(_DOUBLE, 0), place)
            row.each(lambda v, mask: row.store([f.constant(0)] * loss.parts, f.sum(a.gradient, at), v, mask))
    f.end()


class _Row:
    """The kernel's code for one row."""

    def __init__(self, f: Function, loss: Any, dtype: Any, y: ir.Value, target: ir.Value) -> None:
        self.f, self.loss, self.ops, self.y, self.target = f, loss, make_ops(dtype), y, target
        self.size, n = f.lanes * f.itemsize, f.arguments.n
        self.n_whole, tail = f.build.sdiv(n, I64(f.lanes)), f.build.srem(n, I64(f.lanes))
        self.n_vectors = f.sum(self.n_whole, f.build.zext(f.less(I64(0), tail), I64))
        self.tail_mask = f.first_lanes(tail)

    def each(self, body: Callable[..., None], carried: list[ir.Value] | None = None) -> None:
        """Emit body(v, mask) for all vectors; the mask of whole ones is None."""
        f = self.f
        with f.loop(self.n_whole, carried=carried) as v:
            body(v, None)
        with f.loop(self.n_vectors, self.n_whole, carried=carried) as v:
            body(v, self.tail_mask)

    def emit(self, gradient: ir.Value, share: Vector, weight: ir.Value | None) -> ir.Value:
        """Emit the statistics and the gradient; return the value in float64, times the weight."""
        f, loss = self.f, self.loss
        chosen = self._class() if loss.of_classes else None
        statistics: list[Vector] = []
        for k, (reduction, function) in enumerate(loss.statistics):
            kept = gradient if k == loss.kept else None
            statistics.append(self._reduced(reduction, function, chosen, statistics, kept))
        value = f.build.extract_element(loss.value(self.ops, *statistics).value, I32(0))
        value = value if f.itemsize == 8 else f.build.fpext(value, _DOUBLE)

        def store(v: ir.Value, mask: ir.Value | None) -> None:
            *y, target = self._loaded(v, mask, chosen)
            y = y if loss.kept is None else [Vector(f, f.load_vector(self._place(gradient, 0, v), mask))]
            found = loss.gradient(self.ops, *y, target, *statistics)
            self.store([(d * share).value for d in found], gradient, v, mask)

        self.each(store)
        return value if weight is None else f.build.fmul(value, weight)

    def store(self, values: list[ir.Value], row: ir.Value, v: ir.Value, mask: ir.Value | None) -> None:
        """Store vector v of each part of a row of the gradient."""
        for part, value in enumerate(values):
            self.f.store_vector(value, self._place(row, part, v), mask)

    def _place(self, row: ir.Value, part: int, v: ir.Value) -> ir.Value:
        """Return the address of vector v of a part of a row."""
        f = self.f
        offset = f.times(v, self.size)
        return f.sum(row, offset, f.times(f.arguments.n, part * f.itemsize)) if part else f.sum(row, offset)

    def _class(self) -> ir.Value:
        """Return the number of the target class in all lanes; -1 if there is no such class."""
        f = self.f
        number = f.load(self.target, I64)
        exists = f.build.icmp_unsigned("<", number, f.arguments.n)
        return f.spread(f.build.trunc(f.build.select(exists, number, I64(-1)), I32), I32)

    def _loaded(self, v: ir.Value, mask: ir.Value | None, chosen: ir.Value | None) -> list[Any]:
        """Return a vector of each part of y, and of the targets."""
        f = self.f
        y = [Vector(f, f.load_vector(self._place(self.y, part, v), mask)) for part in range(self.loss.parts)]
        if chosen is None:
            return [*y, Vector(f, f.load_vector(self._place(self.target, 0, v), mask))]
        lanes = integers(I32, *range(f.lanes))
        first = f.spread(f.build.trunc(f.times(v, f.lanes), I32), I32)
        return [*y, Condition(f.build.icmp_signed("==", f.build.add(first, lanes), chosen))]

    def _reduced(
        self,
        reduction: str,
        function: Callable[..., Vector],
        chosen: ir.Value | None,
        before: list[Vector],
        kept: ir.Value | None,
    ) -> Vector:
        """Return a statistic in all lanes; store its values in the row `kept`, if given."""
        f = self.f
        neutral = f.constant(float("-inf") if reduction == "maximum" else 0)
        carried = [neutral]

        def join(a: ir.Value, b: ir.Value) -> ir.Value:
            a, b = Vector(f, a), Vector(f, b)
            return (self.ops.maximum(a, b) if reduction == "maximum" else a + b).value

        def add(v: ir.Value, mask: ir.Value | None) -> None:
            value = function(self.ops, *self._loaded(v, mask, chosen), *before).value
            if kept is not None:
                self.store([value], kept, v, mask)
            carried[0] = join(carried[0], value if mask is None else f.build.select(mask, value, neutral))

        self.each(add, carried)
        return Vector(f, across(f, carried[0], join))
