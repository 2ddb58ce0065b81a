"""Packed parameters: stacked over gates, in one `Arena`.

Dimensions: n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from rnnx.cells.wiring import wiring
from rnnx.engines.gpu import launches
from rnnx.engines.gpu.codegen import options, sources
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Shapes
from rnnx.engines.gpu.pass_key import PassKey


def packed_shapes(key: PassKey) -> Shapes:
    """Shapes of wh<i> (G_i n, n), bh<i> (G_i n,), b (G n,) and wx (G n, n_x), or (n_x, G n) for index inputs."""
    shapes: Shapes = {}
    for stage in wiring(key.cell):
        shapes[f"wh{stage.number}"] = ((stage.n_gates * key.n, key.n), key.dtype)
        if key.has_recurrent_bias(stage):
            shapes[f"bh{stage.number}"] = ((stage.n_gates * key.n,), key.dtype)
    rows = key.n_gates * key.n
    return {**shapes, "wx": ((key.n_x, rows) if key.indices else (rows, key.n_x), key.dtype), "b": ((rows,), key.dtype)}


def pack(stream: DeviceStream, key: PassKey, parameters: Mapping[str, Array], arena: Arena) -> None:
    """Fill the arrays of `packed_shapes`."""
    n, n_x, size, jobs = key.n, key.n_x, key.dtype.itemsize, []

    def add(source: Array | None, name: str, row: int, strides: tuple[int, int], columns: int) -> None:
        """Copy `columns` columns to rows `row` ... of an array."""
        target = arena.address(name) + row * strides[0] * size
        jobs.append(launches.pack_job(stream, source, target, strides, (n, columns)))

    for stage in wiring(key.cell):
        for g, gate in enumerate(stage.stage.gates):
            w_x, w_h = gate.split(parameters)
            row = (stage.first_gate + g) * n
            add(w_h, f"wh{stage.number}", g * n, (n, 1), n)
            add(w_x, "wx", row, (1, key.n_gates * n) if key.indices else (n_x, 1), n_x)
            add(parameters[gate.bias], "b", row, (1, 1), 1)
            if key.has_recurrent_bias(stage):
                add(parameters.get(gate.recurrent_bias or ""), f"bh{stage.number}", g * n, (1, 1), 1)
    launches.pack(stream.kernels(sources(key.cell), options(key.dtype)), jobs)


class PackedParameters(Mapping[str, Array]):
    """The parameters of a pass by key, views of packed arrays made on first access."""

    def __init__(self, xp: Any, key: PassKey, arena: Arena) -> None:
        self._xp, self._key, self._arena = xp, key, arena

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        key, arena = self._key, self._arena
        arrays: dict[str, Array] = {}
        w_x = arena.array("wx").T if key.indices else arena.array("wx")
        for stage in wiring(key.cell):
            for g, gate in enumerate(stage.stage.gates):
                own, row = slice(g * key.n, (g + 1) * key.n), (stage.first_gate + g) * key.n
                rows = slice(row, row + key.n)
                arrays |= gate.join(self._xp, w_x[rows, :], arena.array(f"wh{stage.number}")[own, :])
                arrays[gate.bias] = arena.array("b")[rows, None]
                if gate.recurrent_bias in key.optional_keys:
                    arrays[gate.recurrent_bias] = arena.array(f"bh{stage.number}")[own, None]
        return arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._key.cell.parameter_keys, *self._key.optional_keys))

    def __len__(self) -> int:
        return len(tuple(iter(self)))
