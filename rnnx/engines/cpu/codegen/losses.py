"""Kernels of losses over rows; see `rnnx.engines.operations.Loss`."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from rnnx.cells.vocabulary import Condition
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector

_DOUBLE = ir.DoubleType()


def emit_loss(module: ir.Module, loss: Any, dtype: Any) -> None:
    """Emit the kernel `loss`."""
    f = Function(module, "loss", leaves.LOSS, dtype, public=True)
    a = f.arguments
    row_bytes = f.times(a.n, f.itemsize)
    count = f.load(a.numbers, _DOUBLE)
    count = Vector(f, f.spread(count if f.itemsize == 8 else f.build.fptrunc(count, f.real)))
    with f.loop(a.n_steps) as t, f.loop(a.m) as j:
        at = f.times(f.sum(f.times(t, a.m), j), row_bytes)
        target = f.sum(a.target, f.times(t, a.target_step), f.times(j, a.target_row))
        row = _Row(f, loss, dtype, f.sum(a.y, at), target)
        inside = f.build.zext(f.less(t, f.load(f.sum(a.lengths, f.times(j, 8)), I64)), I64)
        with f.loop(inside):
            row.emit(f.sum(a.gradient, at), count)
        with f.loop(I64(1), inside):
            row.each(lambda v, mask: f.store_vector(f.constant(0), f.sum(a.gradient, at, f.times(v, row.size)), mask))
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

    def emit(self, gradient: ir.Value, count: Vector) -> None:
        """Emit the statistics, the value and the gradient."""
        f, loss = self.f, self.loss
        chosen = self._class() if loss.of_classes else None
        statistics: list[Vector] = []
        for reduction, function in loss.statistics:
            statistics.append(self._reduced(reduction, function, chosen, statistics))
        value = f.build.extract_element(loss.value(self.ops, *statistics).value, I32(0))
        pointer = f.pointer(f.sum(f.arguments.numbers, 8), _DOUBLE)
        value = value if f.itemsize == 8 else f.build.fpext(value, _DOUBLE)
        f.build.store(f.build.fadd(f.build.load(pointer), value), pointer)

        def store(v: ir.Value, mask: ir.Value | None) -> None:
            d = loss.gradient(self.ops, *self._loaded(v, mask, chosen), *statistics) / count
            f.store_vector(d.value, f.sum(gradient, f.times(v, self.size)), mask)

        self.each(store)

    def _class(self) -> ir.Value:
        """Return the number of the target class in all lanes; -1 if there is no such class."""
        f = self.f
        number = f.load(self.target, I64)
        exists = f.build.icmp_unsigned("<", number, f.arguments.n)
        return f.spread(f.build.trunc(f.build.select(exists, number, I64(-1)), I32), I32)

    def _loaded(self, v: ir.Value, mask: ir.Value | None, chosen: ir.Value | None) -> tuple[Vector, Any]:
        """Return a vector of y, and of the targets."""
        f = self.f
        offset = f.times(v, self.size)
        y = Vector(f, f.load_vector(f.sum(self.y, offset), mask))
        if chosen is None:
            return y, Vector(f, f.load_vector(f.sum(self.target, offset), mask))
        lanes = ir.Constant(ir.VectorType(I32, f.lanes), list(range(f.lanes)))
        first = f.spread(f.build.trunc(f.times(v, f.lanes), I32), I32)
        return y, Condition(f.build.icmp_signed("==", f.build.add(first, lanes), chosen))

    def _reduced(
        self, reduction: str, function: Callable[..., Vector], chosen: ir.Value | None, before: list[Vector]
    ) -> Vector:
        """Return a statistic in all lanes."""
        f = self.f
        neutral = f.constant(float("-inf") if reduction == "maximum" else 0)
        carried = [neutral]

        def join(a: ir.Value, b: ir.Value) -> ir.Value:
            a, b = Vector(f, a), Vector(f, b)
            return (self.ops.maximum(a, b) if reduction == "maximum" else a + b).value

        def add(v: ir.Value, mask: ir.Value | None) -> None:
            value = function(self.ops, *self._loaded(v, mask, chosen), *before).value
            carried[0] = join(carried[0], value if mask is None else f.build.select(mask, value, neutral))

        self.each(add, carried)
        return Vector(f, across(f, carried[0], join))


def across(f: Function, total: ir.Value, join: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Join the lanes of a vector, and return the result in all lanes."""
    distance = f.lanes // 2
    while distance:
        order = [(lane + distance) % f.lanes for lane in range(f.lanes)]
        total = join(total, f.build.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, f.lanes), order)))
        distance //= 2
    return total
