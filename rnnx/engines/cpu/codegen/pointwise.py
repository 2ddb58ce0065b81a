"""Elementwise kernels of a cell, traced from its own functions with symbolic vectors.

A kernel runs one stage of one time step on rows (examples) by vectors (of units). Its array arguments are those of
`rnnx.cells.wiring`. The variant "_tail" writes only the first `tail` units of one vector.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.cells import Cell
from rnnx.cells.wiring import Argument, StageWiring, wiring
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I64, Function
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector


def backward_arguments(stage: StageWiring, given: Sequence[bool]) -> list[Argument]:
    """Arguments of the backward kernel. `given` tells for which states the caller gives cotangents."""
    return [a for a in stage.backward_arguments() if a.role != "d_given" or given[a.number]]


def emit_kernels(module: ir.Module, cell: Cell, dtype: Any, given: Sequence[bool]) -> None:
    """Emit forward_<i>, backward_<i> and their _tail variants for all stages i."""
    for i, stage in enumerate(wiring(cell)):
        for tail in (False, True):
            suffix = "_tail" if tail else ""
            _forward(_Kernel(module, f"forward_{i}{suffix}", dtype, tail, stage.forward_arguments()), stage)
            _backward(_Kernel(module, f"backward_{i}{suffix}", dtype, tail, backward_arguments(stage, given)), stage)


class _Kernel:
    """Loops over rows and vectors, with their loads and stores."""

    def __init__(self, module: ir.Module, name: str, dtype: Any, tail: bool, arguments: Sequence[Argument]) -> None:
        self.f = f = Function(module, name, leaves.KERNEL, dtype, public=True)
        at, header = f.arguments.arguments, leaves.KERNEL_HEADER
        numbers = {key: f.load(f.sum(at, 8 * i), I64) for i, key in enumerate(header.names or ())}
        self.addresses = {a: f.load(f.sum(at, header.itemsize + 8 * i), I64) for i, a in enumerate(arguments)}
        self.row, self.side_rows = numbers["row"], {"zx": numbers["zx_row"], "zh": numbers["zh_row"]}
        self.mask = f.first_lanes(numbers["tail"]) if tail else None
        self.ops, self.size = make_ops(dtype), f.lanes * f.itemsize

    def places(self, role: str, offset: ir.Value) -> list[ir.Value]:
        """Return the addresses of the arguments of a role, plus an offset."""
        return [self.f.sum(address, offset) for a, address in self.addresses.items() if a.role == role]

    def load(self, role: str, offset: ir.Value) -> tuple[Vector, ...]:
        return tuple(Vector(self.f, self.f.load_vector(place, self.mask)) for place in self.places(role, offset))

    def load_given(self, offset: ir.Value, column: ir.Value) -> tuple[Vector, ...]:
        """Load the vectors of parameters, which are the same for all rows, and the extra inputs."""
        given = [(a.slot, address) for a, address in self.addresses.items() if a.role == "given"]
        offsets = (column if slot and slot.kind == "vector" else offset for slot, _ in given)
        places = [self.f.sum(address, at) for (_, address), at in zip(given, offsets, strict=True)]
        return tuple(Vector(self.f, self.f.load_vector(place, self.mask)) for place in places)

    def store(self, values: Sequence[Vector], places: Sequence[ir.Value]) -> None:
        for value, place in zip(values, places, strict=True):
            self.f.store_vector(value.value, place, self.mask)


def _forward(kernel: _Kernel, stage: StageWiring) -> None:
    """Emit a forward kernel. In zx and zh, each of G gates, gate g of unit vector v is at (v G + g) L."""
    f, size = kernel.f, kernel.size
    with f.loop(f.arguments.rows) as j, f.loop(f.arguments.vectors) as v:
        column = f.times(v, size)
        at = f.sum(f.times(j, kernel.row), column)

        def side(role: str, n_gates: int) -> tuple[Vector, ...]:
            if not n_gates:
                return ()
            offset = f.sum(f.times(j, kernel.side_rows[role]), f.times(v, n_gates * size))
            (place,) = kernel.places(role, offset)
            return tuple(Vector(f, f.load_vector(f.sum(place, g * size))) for g in range(n_gates))

        zx = side("zx", stage.n_zx)
        # If the engine adds the sides, zx is the sum; adding -0.0 is exact.
        zh = (Vector(f, f.constant(-0.0)),) * stage.n_zh if stage.adds_sides else side("zh", stage.n_zh)
        new, saved = stage.forward(kernel.ops, zx, zh, kernel.load("reads", at), kernel.load_given(at, column))
        kernel.store(new, kernel.places("writes", at))
        kernel.store(saved, kernel.places("saves", at))
    f.end()


def _backward(kernel: _Kernel, stage: StageWiring) -> None:
    """Emit a backward kernel. dzx and dzh are (rows, blocks, n)."""
    f = kernel.f
    with f.loop(f.arguments.rows) as j, f.loop(f.arguments.vectors) as v:
        column = f.times(v, kernel.size)
        at = f.sum(f.times(j, kernel.row), column)
        numbers = [a.number for a in kernel.addresses if a.role == "d_given"]
        d_given, ds = kernel.load("d_given", at), list(kernel.load("d_writes", at))
        for i, d in zip(numbers, d_given, strict=True):
            ds[i] = ds[i] + d
        s_prev, s_next, saved = (kernel.load(role, at) for role in ("reads", "writes", "saves"))
        given = kernel.load_given(at, column)
        rows, ds_prev, d_inputs = stage.backward(kernel.ops, tuple(ds), s_prev, s_next, saved, given)
        for role, dz in rows.items():
            for place in kernel.places(role, f.sum(f.times(j, kernel.side_rows[role[1:]]), column)):
                kernel.store(dz, [f.sum(place, f.times(kernel.row, g)) for g in range(len(dz))])
        kernel.store(ds_prev, kernel.places("d_reads", at))
        kernel.store(d_inputs, kernel.places("d_inputs", at))
    f.end()
