"""Kernels of losses over rows; see `rnnx.engines.operations.Loss`.

The statistics of a row are numbers, from which the losses of as many rows as a vector has lanes are computed at once.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from rnnx.cells.vocabulary import Condition
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I1, I32, I64, Function, integers
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector, across

_DOUBLE = ir.DoubleType()
_ZERO, _ONE = ir.Constant(_DOUBLE, 0), ir.Constant(_DOUBLE, 1)


def emit_loss(module: ir.Module, loss: Any, dtype: Any, weighted: bool) -> None:
    """Emit the kernel `loss`."""
    f = Function(module, "loss", leaves.LOSS, dtype, public=True)
    a, values = f.arguments, _Values(f, loss, dtype)
    count, row_bytes = f.load(a.count, _DOUBLE), f.times(a.n, loss.parts * f.itemsize)

    def part(weight: ir.Value) -> Vector:  # of a row in the mean
        return Vector(f, f.spread(_narrowed(f, f.build.fdiv(weight, count))))

    share, n_rows = part(_ONE), f.times(a.n_steps, a.m)
    place = [I64(0), I64(0)]  # the step and the example of a row
    with f.loop(n_rows, step=f.lanes, carried=place) as first:
        rows = f.least(f.lanes, f.build.sub(n_rows, first))
        with f.loop(rows, carried=place) as lane:
            number, (t, j) = f.sum(first, lane), place
            at, target = f.times(number, row_bytes), f.sum(f.times(t, a.target_step), f.times(j, a.target_row))
            row = _Row(f, loss, dtype, *map(f.sum, (a.y, a.target, a.gradient), (at, target, at)))
            weight = _ONE
            if weighted:
                weight = _widened(f, f.load(f.sum(a.weights, f.times(number, f.itemsize)), f.real))
                share = part(weight)
            is_inside = f.less(t, f.load(f.sum(a.lengths, f.times(j, 8)), I64))
            weight = f.build.select(is_inside, weight, _ZERO)
            counts = f.build.zext(f.build.fcmp_unordered("!=", weight, _ZERO), I64)
            with f.loop(counts):
                values.note(lane, statistics := row.statistics())
                row.store_gradient(statistics, share)
            with f.loop(I64(1), counts):
                row.clear_gradient()
            values.note_weight(lane, weight)
            is_last = f.build.icmp_signed("==", f.sum(j, 1), a.m)
            place[:] = f.sum(t, f.build.zext(is_last, I64)), f.build.select(is_last, I64(0), f.sum(j, 1))
        values.store(first, rows)
    f.end()


def _narrowed(f: Function, number: ir.Value) -> ir.Value:
    """Round a float64 to the numbers of a function."""
    return number if f.itemsize == 8 else f.build.fptrunc(number, f.real)


def _widened(f: Function, number: ir.Value) -> ir.Value:
    """Convert a number of a function to float64."""
    return number if f.itemsize == 8 else f.build.fpext(number, _DOUBLE)


class _Values:
    """The kernel's code for the losses of rows, one per lane, from their statistics and weights in memory."""

    def __init__(self, f: Function, loss: Any, dtype: Any) -> None:
        self.f, self.loss, self.ops = f, loss, make_ops(dtype)
        self.wide = f.widened() if f.itemsize == 4 else f
        numbers = f.build.ptrtoint(f.build.alloca(f.vector, len(loss.statistics)), I64)
        self.statistics = [f.sum(numbers, k * f.lanes * f.itemsize) for k in range(len(loss.statistics))]
        self.weights = f.build.ptrtoint(f.build.alloca(self.wide.vector), I64)
        for place in self.statistics:  # lanes without a row are computed, too
            f.store_vector(f.constant(1), place)

    def note(self, lane: ir.Value, statistics: list[Vector]) -> None:
        """Store the statistics of a row."""
        f = self.f
        for place, found in zip(self.statistics, statistics, strict=True):
            number = f.build.extract_element(found.value, I32(0))
            f.build.store(number, f.pointer(f.sum(place, f.times(lane, f.itemsize)), f.real))

    def note_weight(self, lane: ir.Value, weight: ir.Value) -> None:
        """Store the weight of a row, 0 if it does not count."""
        f = self.f
        f.build.store(weight, f.pointer(f.sum(self.weights, f.times(lane, 8)), _DOUBLE))

    def store(self, first: ir.Value, count: ir.Value) -> None:
        """Store the losses of `count` rows, times their weights, from the first one on."""
        f, wide = self.f, self.wide
        found = self.loss.value(self.ops, *[Vector(f, f.load_vector(place)) for place in self.statistics])
        value = found.widened() if f.itemsize == 4 else found
        weights = wide.load_vector(self.weights)
        counts = wide.build.fcmp_unordered("!=", weights, wide.constant(0))
        values = wide.build.select(counts, wide.build.fmul(value.value, weights), wide.constant(0))
        wide.store_vector(values, f.sum(f.arguments.values, f.times(first, 8)), wide.first_lanes(count))


class _Row:
    """The kernel's code for one row: its y, target and gradient."""

    def __init__(self, f: Function, loss: Any, dtype: Any, y: ir.Value, target: ir.Value, gradient: ir.Value) -> None:
        self.f, self.loss, self.ops, self.y, self.target, self.gradient = f, loss, make_ops(dtype), y, target, gradient
        self.size, n = f.lanes * f.itemsize, f.arguments.n
        self.n_whole, tail = f.build.sdiv(n, I64(f.lanes)), f.build.srem(n, I64(f.lanes))
        self.n_vectors = f.sum(self.n_whole, f.build.zext(f.less(I64(0), tail), I64))
        self.tail_mask = f.first_lanes(tail)
        self.kept_tail = f.constant(0)
        if loss.of_classes:
            number = f.load(target, I64)
            self.exists = f.build.icmp_unsigned("<", number, n)
            self.chosen = f.build.select(self.exists, number, I64(-1))

    def each(self, body: Callable[..., None], carried: list[ir.Value] | None = None) -> None:
        """Emit body(v, mask) for all vectors; the mask of whole ones is None."""
        f = self.f
        with f.loop(self.n_whole, carried=carried) as v:
            body(v, None)
        with f.loop(self.n_vectors, self.n_whole, carried=carried) as v:
            body(v, self.tail_mask)

    def statistics(self) -> list[Vector]:
        """Return the statistics, each in all lanes. The values that are kept are in the gradient until it is stored.

        Those of the tail are in a register: the CPU would wait until numbers that are stored with a mask are in its
        cache before it loads them.
        """
        found: list[Vector] = []
        for k, (reduction, function) in enumerate(self.loss.statistics):
            if reduction == "target":
                found.append(self._at_target(function, found))
            else:
                found.append(self._reduced(reduction, function, found, k == self.loss.kept))
        return found

    def store_gradient(self, statistics: list[Vector], share: Vector) -> None:
        """Store the gradient of the row's share of the mean."""
        f, loss = self.f, self.loss

        def store(v: ir.Value, mask: ir.Value | None) -> None:
            *y, target = self._loaded(v, mask)
            if loss.kept is not None:
                place = f.sum(self.gradient, f.times(v, self.size))
                y = [Vector(f, f.load_vector(place) if mask is None else self.kept_tail)]
            found = loss.gradient(self.ops, *y, target, *statistics)
            self._store([(d * share).value for d in found], v, mask)

        self.each(store)

    def clear_gradient(self) -> None:
        """Store zeros."""
        self.each(lambda v, mask: self._store([self.f.constant(0)] * self.loss.parts, v, mask))

    def _store(self, values: list[ir.Value], v: ir.Value, mask: ir.Value | None) -> None:
        """Store vector v of each part of the gradient."""
        f = self.f
        for value, place in zip(values, self._places(self.gradient, f.times(v, self.size)), strict=True):
            f.store_vector(value, place, mask)

    def _places(self, row: ir.Value, offset: ir.Value) -> list[ir.Value]:
        """Return the addresses of what has this offset in each part of a row."""
        f = self.f
        first = f.sum(row, offset)
        others = (f.sum(first, f.times(f.arguments.n, part * f.itemsize)) for part in range(1, self.loss.parts))
        return [first, *others]

    def _loaded(self, v: ir.Value, mask: ir.Value | None) -> list[Any]:
        """Return a vector of each part of y, and of the targets."""
        f, offset = self.f, self.f.times(v, self.size)
        y = [Vector(f, f.load_vector(place, mask)) for place in self._places(self.y, offset)]
        if not self.loss.of_classes:
            return [*y, Vector(f, f.load_vector(f.sum(self.target, offset), mask))]
        first, chosen = (f.spread(f.build.trunc(n, I32), I32) for n in (f.times(v, f.lanes), self.chosen))
        lanes = integers(I32, *range(f.lanes))
        return [*y, Condition(f.build.icmp_signed("==", f.build.add(first, lanes), chosen))]

    def _at_target(self, function: Callable[..., Vector], before: list[Vector]) -> Vector:
        """Return the value at the target class, 0 if there is no such class, in all lanes."""
        f = self.f
        places = self._places(self.y, f.times(f.build.select(self.exists, self.chosen, I64(0)), f.itemsize))
        y = [Vector(f, f.spread(f.load(place, f.real))) for place in places]
        value = function(self.ops, *y, Condition(integers(I1, *[1] * f.lanes)), *before).value
        return Vector(f, f.build.select(self.exists, value, f.constant(0)))

    def _reduced(self, reduction: str, function: Callable[..., Vector], before: list[Vector], is_kept: bool) -> Vector:
        """Return a statistic in all lanes."""
        f = self.f
        neutral = f.constant(float("-inf") if reduction == "maximum" else 0)
        carried = [neutral, f.constant(0)]  # the statistic so far, and the values of the tail

        def join(a: ir.Value, b: ir.Value) -> ir.Value:
            a, b = Vector(f, a), Vector(f, b)
            return (self.ops.maximum(a, b) if reduction == "maximum" else a + b).value

        def add(v: ir.Value, mask: ir.Value | None) -> None:
            value = function(self.ops, *self._loaded(v, mask), *before).value
            if mask is not None:
                value = carried[1] = f.build.select(mask, value, neutral)
            elif is_kept:
                self._store([value], v, mask)
            carried[0] = join(carried[0], value)

        self.each(add, carried)
        if is_kept:
            self.kept_tail = carried[1]
        return Vector(f, across(f, carried[0], join))
