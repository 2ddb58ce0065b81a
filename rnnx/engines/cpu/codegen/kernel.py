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
    """A function under construction, with the loads and stores of its array arguments.

    It computes on one vector, or on several at once, its *pieces*, which may be in different rows. An offset is that of
    a piece.
    """

    def __init__(self, module: ir.Module, name: str, dtype: Any, tail: bool, arguments: Sequence[Argument]) -> None:
        self.f = f = Function(module, name, leaves.KERNEL, dtype, public=True)
        at, header = f.arguments.arguments, leaves.KERNEL_HEADER
        numbers = {key: f.load(f.sum(at, 8 * i), I64) for i, key in enumerate(header.names or ())}
        self.addresses = {a: f.load(f.sum(at, header.itemsize + 8 * i), I64) for i, a in enumerate(arguments)}
        self.row, self.side_rows = numbers["row"], {"zx": numbers["zx_row"], "zh": numbers["zh_row"]}
        self.tail, self.examples = numbers["tail"], numbers["examples"]
        self.piece, self.mask = f, f.first_lanes(self.tail) if tail else None
        self.ops, self.size = make_ops(dtype), f.lanes * f.itemsize

    def paired(self, lanes: int) -> "Kernel":
        """Return this kernel on pieces of so many lanes that fill two vectors."""
        pair = copy.copy(self)
        pair.f, pair.piece = self.f.of_parts(2), self.f.of_lanes(lanes)
        pair.mask = None if self.mask is None else pair.piece.first_lanes(self.tail)
        return pair

    def gate_stride(self) -> ir.Value:
        """Return the bytes from one gate to the next, of those that a unit vector has side by side."""
        return I64(self.size) if self.mask is None else self.f.times(self.tail, self.f.itemsize)

    def row_of(self, j: ir.Value) -> ir.Value:
        """Return the offset of the row of example number j of the call, in arrays with one number per unit."""
        return self.f.times(self.f.load(self.f.sum(self.examples, self.f.times(j, 8)), I64), self.row)

    def places(self, role: str, offsets: Sequence[ir.Value]) -> list[list[ir.Value]]:
        """Return the addresses of the pieces of the arguments of a role."""
        return [[self.f.sum(at, offset) for offset in offsets] for a, at in self.addresses.items() if a.role == role]

    def load_at(self, places: Sequence[ir.Value]) -> Vector:
        """Load a value, given the addresses of its pieces."""
        return Vector(self.f, self.f.joined([self.piece.load_vector(place, self.mask) for place in places]))

    def load(self, role: str, offsets: Sequence[ir.Value]) -> tuple[Vector, ...]:
        """Load the arguments of a role."""
        return tuple(map(self.load_at, self.places(role, offsets)))

    def load_given(self, offsets: Sequence[ir.Value], columns: Sequence[ir.Value]) -> tuple[Vector, ...]:
        """Load the vectors of parameters, which are the same for all rows, and the extra inputs."""
        given = [(a.slot, address) for a, address in self.addresses.items() if a.role == "given"]
        at = (columns if slot and slot.kind == "vector" else offsets for slot, _ in given)
        every = zip(given, at, strict=True)
        return tuple(self.load_at([self.f.sum(address, k) for k in of_pieces]) for (_, address), of_pieces in every)

    def store(self, values: Sequence[Vector], places: Sequence[Sequence[ir.Value]]) -> None:
        """Store values, given the addresses of their pieces."""
        for value, at in zip(values, places, strict=True):
            for i, place in enumerate(at):
                self.piece.store_vector(self.piece.part(value.value, i), place, self.mask)

    def add(self, values: Sequence[Vector], places: Sequence[Sequence[ir.Value]]) -> None:
        """Add values to the numbers at addresses."""
        sums = map(self.load_at, places)
        self.store([total + value for total, value in zip(sums, values, strict=True)], places)
