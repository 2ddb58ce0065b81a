"""What all kernels of stages share: their arguments, loads and stores."""

import copy
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.cells.wiring import Argument
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I64, Function
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector


class Kernel:
    """A function under construction, with the loads and stores of its array arguments."""

    def __init__(self, module: ir.Module, name: str, dtype: Any, tail: bool, arguments: Sequence[Argument]) -> None:
        self.f = f = Function(module, name, leaves.KERNEL, dtype, public=True)
        at, header = f.arguments.arguments, leaves.KERNEL_HEADER
        numbers = {key: f.load(f.sum(at, 8 * i), I64) for i, key in enumerate(header.names or ())}
        self.addresses = {a: f.load(f.sum(at, header.itemsize + 8 * i), I64) for i, a in enumerate(arguments)}
        self.row, self.side_rows = numbers["row"], {"zx": numbers["zx_row"], "zh": numbers["zh_row"]}
        self.tail, self.examples = numbers["tail"], numbers["examples"]
        self.mask = f.first_lanes(self.tail) if tail else None
        self.ops, self.size = make_ops(dtype), f.lanes * f.itemsize

    def paired(self) -> "Kernel":
        """Return this kernel on two vectors at once."""
        pair = copy.copy(self)
        pair.f = self.f.of_parts(2)
        return pair

    def row_of(self, j: ir.Value) -> ir.Value:
        """Return the offset of the row of example number j of the call, in arrays with one number per unit."""
        return self.f.times(self.f.load(self.f.sum(self.examples, self.f.times(j, 8)), I64), self.row)

    def places(self, role: str, offset: ir.Value) -> list[ir.Value]:
        """Return the addresses of the arguments of a role, plus an offset."""
        return [self.f.sum(address, offset) for a, address in self.addresses.items() if a.role == role]

    def load(self, role: str, offset: ir.Value) -> tuple[Vector, ...]:
        """Load the arguments of a role at an offset."""
        return tuple(Vector(self.f, self.f.load_vector(place, self.mask)) for place in self.places(role, offset))

    def side(self, place: ir.Value, gate: int, n_gates: int) -> Vector:
        """Load a gate's side of the unit vector that begins at a place, where the gates are side by side; or of several
        unit vectors, one after another.
        """
        f, one = self.f, self.f.of_parts(1)
        width = f.times(self.tail, gate * f.itemsize) if self.mask is not None else gate * self.size
        at = [f.sum(place, width, i * n_gates * self.size) for i in range(f.parts)]
        return Vector(f, f.joined([one.load_vector(part, self.mask) for part in at]))

    def load_given(self, offset: ir.Value, column: ir.Value) -> tuple[Vector, ...]:
        """Load the vectors of parameters, which are the same for all rows, and the extra inputs."""
        given = [(a.slot, address) for a, address in self.addresses.items() if a.role == "given"]
        offsets = (column if slot and slot.kind == "vector" else offset for slot, _ in given)
        places = [self.f.sum(address, at) for (_, address), at in zip(given, offsets, strict=True)]
        return tuple(Vector(self.f, self.f.load_vector(place, self.mask)) for place in places)

    def store(self, values: Sequence[Vector], places: Sequence[ir.Value]) -> None:
        """Store values at addresses."""
        for value, place in zip(values, places, strict=True):
            self.f.store_vector(value.value, place, self.mask)

    def add(self, values: Sequence[Vector], places: Sequence[ir.Value]) -> None:
        """Add values to the numbers at addresses."""
        sums = [Vector(self.f, self.f.load_vector(place, self.mask)) for place in places]
        self.store([total + value for total, value in zip(sums, values, strict=True)], places)
