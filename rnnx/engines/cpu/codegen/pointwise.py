"""The mathematics of a cell as compiled kernels: its own functions, run once on symbolic vectors.

A kernel does one stage of one time step, elementwise, on some rows (examples) by some vectors (of units). It is
called as ``kernel(rows, vectors, arguments)``, where `arguments` is the address of a list of integers: first the
strides in bytes, then addresses, in the order that `_forward` and `_backward` state. The variant "_tail" writes only
the first `tail` units of one vector. Dimensions: j a row, v a vector of units, g a gate.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.cells import Cell, Stage
from rnnx.engines.cpu.codegen.ir import Function, Vector
from rnnx.engines.cpu.codegen.vector_math import make_ops

# `tail`; bytes of a row of the states, of z (backward: of dz), and of zh; then come the addresses.
N_STRIDES = 4


def emit_kernels(module: ir.Module, cell: Cell, dtype: Any, external: Sequence[bool]) -> None:
    """The kernels forward_<i>, backward_<i> of all stages i.

    `external` says for every state whether backward adds cotangents from outside.
    """
    for i, stage in enumerate(cell.stages):
        n_in = len(cell.entering(i))
        added = external if i == len(cell.stages) - 1 else [False] * len(stage.out)
        for tail in (False, True):
            _forward(module, f"forward_{i}", stage, n_in, dtype, tail)
            _backward(module, f"backward_{i}", stage, n_in, dtype, tail, added)


class _Kernel:
    """The loops around the mathematics, and the loads and stores at one place of them."""

    def __init__(self, module: ir.Module, name: str, dtype: Any, tail: bool, n_addresses: int) -> None:
        names = ("rows", "vectors", "arguments")
        f = Function(module, name + ("_tail" if tail else ""), names, dtype, public=True)
        self.f, self.rows, self.vectors = f, f.arguments[0], f.arguments[1]
        numbers = [f.integer(f.sum(f.arguments[2], 8 * i)) for i in range(N_STRIDES + n_addresses)]
        self.mask = f.first_lanes(numbers[0]) if tail else None
        self.strides, self.addresses = numbers[1:N_STRIDES], numbers[N_STRIDES:]

    def load(self, address: ir.Value) -> Vector:
        return Vector(self.f, self.f.load_vector(address, self.mask))

    def store(self, value: Vector, address: ir.Value) -> None:
        self.f.store_vector(value.value, address, self.mask)


def _forward(module: ir.Module, name: str, stage: Stage, n_in: int, dtype: Any, tail: bool) -> None:
    """Addresses: z, zh (unless additive), states in, states out, saved.

    z and zh are lists of gates vector by vector: unit vector v of gate g stands at (v G + g) L.
    """
    n_gates, counts = len(stage.gates), (n_in, len(stage.out), len(stage.saved))
    n_z = 1 if stage.additive else 2
    kernel = _Kernel(module, name, dtype, tail, n_z + sum(counts))
    f = kernel.f
    size = f.lanes * f.itemsize
    row, z_row, zh_row = kernel.strides
    with f.loop(kernel.rows) as j, f.loop(kernel.vectors) as v:

        def gates(base: ir.Value, stride: ir.Value) -> tuple[Vector, ...]:
            at = f.sum(base, f.times(j, stride), f.times(v, n_gates * size))
            return tuple(Vector(f, f.load_vector(f.sum(at, g * size))) for g in range(n_gates))

        at = f.sum(f.times(j, row), f.times(v, size))
        places = [f.sum(address, at) for address in kernel.addresses[n_z:]]
        zx = gates(kernel.addresses[0], z_row)
        # Of an additive stage zx holds the sum already, and minus zero is what adding does not change.
        zh = (Vector(f, f.constant(-0.0)),) * n_gates if stage.additive else gates(kernel.addresses[1], zh_row)
        new, saved = stage.forward(make_ops(dtype), zx, zh, tuple(map(kernel.load, places[:n_in])))
        for value, place in zip((*new, *saved), places[n_in:], strict=True):
            kernel.store(value, place)
    f.end()


def _backward(
    module: ir.Module, name: str, stage: Stage, n_in: int, dtype: Any, tail: bool, external: Sequence[bool]
) -> None:
    """Addresses: cotangents out, those from outside, states before, states after, saved, dzx, dzh (unless
    additive), cotangents in.

    dzx and dzh are (rows, G, n), each row G rows of a state long.
    """
    n_out = len(stage.out)
    counts = [n_out, sum(external), n_in, n_out, len(stage.saved), 1, 0 if stage.additive else 1, n_in]
    kernel = _Kernel(module, name, dtype, tail, sum(counts))
    f = kernel.f
    size = f.lanes * f.itemsize
    row, dz_row, _ = kernel.strides
    with f.loop(kernel.rows) as j, f.loop(kernel.vectors) as v:
        column, remaining = f.times(v, size), iter(kernel.addresses)
        at = f.sum(f.times(j, row), column)

        def places(count: int, at: ir.Value = at, addresses: Any = remaining) -> list[ir.Value]:
            return [f.sum(next(addresses), at) for _ in range(count)]

        ds = [kernel.load(place) for place in places(n_out)]
        outside = iter(places(sum(external)))
        ds = [d + kernel.load(next(outside)) if more else d for d, more in zip(ds, external, strict=True)]
        before, after, saved = (tuple(map(kernel.load, places(n))) for n in (n_in, n_out, len(stage.saved)))
        at_dz = f.sum(f.times(j, dz_row), column)
        dz_places = places(1 if stage.additive else 2, at_dz)
        dzx, dzh, d_in = stage.backward(make_ops(dtype), tuple(ds), before, after, saved)
        for place, dz in zip(dz_places, (dzx, dzh), strict=False):
            for g, value in enumerate(dz):
                kernel.store(value, f.sum(place, f.times(row, g)))
        for value, place in zip(d_in, places(n_in), strict=True):
            kernel.store(value, place)
    f.end()
