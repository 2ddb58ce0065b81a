"""Kernels of stages whose functions contain means over the units: whole rows, in the phases of `phases`.

A call covers all vectors of its rows, including the tail. All results are stored in the last phase, after the loads at
the same place, because a cotangent may be stored where another one was loaded.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from rnnx.cells.wiring import StageWiring
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64
from rnnx.engines.cpu.codegen.kernel import Kernel
from rnnx.engines.cpu.codegen.phases import Name, Phase, Step
from rnnx.engines.cpu.codegen.vectors import Vector, across


class _Place(NamedTuple):
    """A vector of a row."""

    row: ir.Value  # index
    column: ir.Value  # offsets in bytes: in the row,
    at: ir.Value  # and in arrays with one number per unit


def emit_rows(kernel: Kernel, stage: StageWiring, phases: Sequence[Phase]) -> None:
    """Emit a kernel that evaluates the phases of a stage's function for each row."""
    f = kernel.f
    rows = _Rows(kernel, stage, phases)
    with f.loop(f.arguments.rows) as j:
        uniform: dict[int, Vector] = {}
        for phase in phases:
            _run(
                kernel, phase.once, lambda name: uniform[name[1]], lambda name, value: uniform.update({name[1]: value})
            )
            rows.run(phase.each, j, uniform)
    f.end()


def _run(
    kernel: Kernel, step: Step, operand: Callable[[Name], Vector], store: Callable[[Name, Vector], object]
) -> None:
    """Evaluate a program, and only then store its results."""
    if step.results:
        results = step.program(kernel.ops, *map(operand, step.operands))
        for name, value in zip(step.results, results, strict=True):
            store(name, value)


class _Rows:
    """The loop over the vectors of a row."""

    def __init__(self, kernel: Kernel, stage: StageWiring, phases: Sequence[Phase]) -> None:
        self.kernel, self.f = kernel, kernel.f
        f, tail = kernel.f, kernel.tail
        self.widths, self.by_gate = {"zx": stage.n_zx, "zh": stage.n_zh}, stage.heads > 1
        self.addresses = {(a.role, a.number): address for a, address in kernel.addresses.items()}
        of_parameters = [("given", k) for k, slot in enumerate(stage.vectors)]
        self.of_parameters = set(of_parameters)
        self.vectors = f.arguments.vectors
        self.n_full = f.build.sub(self.vectors, f.build.zext(f.less(I64(0), tail), I64))
        self.tail_mask = f.first_lanes(tail)
        self.n = f.build.sitofp(f.build.sdiv(kernel.row, I64(f.itemsize)), f.real)
        kept = [number for phase in phases for role, number in phase.each.results if role == "kept"]
        first = f.sum(f.arguments.arguments, leaves.scratch_offset(len(kernel.addresses)))
        row = f.times(self.vectors, kernel.size)
        self.kept = {number: f.sum(first, f.times(row, k)) for k, number in enumerate(kept)}

    def run(self, step: Step, j: ir.Value, uniform: dict[int, Vector]) -> None:
        """Emit the loop of a phase for row j; add its means to `uniform`."""
        f, kernel = self.f, self.kernel
        means = [number for role, number in step.results if role == "mean"]
        sums = [f.constant(0)] * len(means)
        row = kernel.row_of(j)
        for start, stop, mask in ((0, self.n_full, None), (self.n_full, self.vectors, self.tail_mask)):
            kernel.mask = mask
            with f.loop(stop, start, carried=sums) as v:
                column = f.times(v, kernel.size)
                place = _Place(j, column, f.sum(row, column))

                def operand(name: Name, place: _Place = place) -> Vector:
                    return uniform[name[1]] if name[0] == "uniform" else self._load(name, place)

                def store(name: Name, value: Vector, place: _Place = place) -> None:
                    if name[0] == "mean":
                        k = means.index(name[1])
                        sums[k] = f.build.fadd(sums[k], self._masked(value))
                    else:
                        self._store(name, value, place)

                _run(kernel, step, operand, store)
        for number, total in zip(means, sums, strict=True):
            uniform[number] = self._mean(total)

    def _load(self, name: Name, place: _Place) -> Vector:
        f, (role, number) = self.f, name
        if role == "kept":
            return Vector(f, f.load_vector(f.sum(self.kept[number], place.column)))
        if role == "zh" and self.by_gate:  # (rows, G, n)
            at = f.sum(f.times(place.row, self.kernel.side_rows[role]), place.column, f.times(self.kernel.row, number))
            return Vector(f, f.load_vector(f.sum(self.addresses[role, 0], at), self.kernel.mask))
        if role in ("zx", "zh"):  # see `rnnx.engines.cpu.codegen.pointwise`
            row, n_gates = f.times(place.row, self.kernel.side_rows[role]), self.widths[role]
            unit_vector = f.sum(self.addresses[role, 0], row, f.times(place.column, n_gates))
            return self.kernel.load_at([f.sum(unit_vector, f.times(self.kernel.gate_stride(), number))])
        at = place.column if name in self.of_parameters else place.at
        return Vector(f, f.load_vector(f.sum(self.addresses[name], at), self.kernel.mask))

    def _store(self, name: Name, value: Vector, place: _Place) -> None:
        f, (role, number) = self.f, name
        if role == "kept":
            f.store_vector(value.value, f.sum(self.kept[number], place.column))
            return
        if role == "d_vectors":
            self.kernel.add([value], [[f.sum(self.addresses[name], place.at)]])
            return
        if role in ("dzx", "dzh"):  # (rows, gates, n)
            at = f.sum(f.times(place.row, self.kernel.side_rows[role[1:]]), place.column)
            address = f.sum(self.addresses[role, 0], at, f.times(self.kernel.row, number))
        else:
            address = f.sum(self.addresses[name], place.at)
        f.store_vector(value.value, address, self.kernel.mask)

    def _masked(self, value: Vector) -> ir.Value:
        """Return a vector with zeros past the end of the row."""
        mask = self.kernel.mask
        return value.value if mask is None else self.f.build.select(mask, value.value, self.f.constant(0))

    def _mean(self, total: ir.Value) -> Vector:
        """Return the sum of the lanes divided by n, in all lanes."""
        f = self.f
        total = across(f, total, f.build.fadd)
        mean = f.build.fdiv(f.build.extract_element(total, I32(0)), self.n)
        return Vector(f, f.spread(mean))
