"""The arrays that a tape refers to, and packed parameters: stacked over gates.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

import itertools
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from rnnx.cells.wiring import wiring
from rnnx.engines.gpu.codegen import PACK_JOBS, declared, options, read, sources
from rnnx.engines.gpu.device import INDEX, Arena, Array, DeviceStream, Shapes
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


def tape_shapes(key: PassKey) -> Shapes:
    """Shapes of states S<k> (T + 1, m, n), saved values K<k> (T, m, n), inputs X (T, m, n_x), and `packed_shapes`.

    Index inputs are (T, m). Without `keep`, K<k> hold one step.
    """
    cell, n_steps, m, n = key.cell, key.n_steps, key.m, key.n
    return {
        **{f"S{k}": ((n_steps + 1, m, n), key.dtype) for k in range(len(cell.states))},
        **{f"K{k}": ((n_steps if key.keep else 1, m, n), key.dtype) for k in range(len(cell.saved))},
        "X": ((n_steps, m), INDEX) if key.indices else ((n_steps, m, key.n_x), key.dtype),
        **packed_shapes(key),
    }


def pack(stream: DeviceStream, key: PassKey, parameters: Mapping[str, Array], addresses: Mapping[str, int]) -> None:
    """Fill the arrays of `packed_shapes`."""
    n, n_x, job, jobs = key.n, key.n_x, declared(read("layout.cu"), "copy_matrix"), []

    def add(source: Array | None, name: str, row: int, strides: tuple[int, int], columns: int) -> None:
        """Copy `columns` columns, or zeros, to rows `row` ... of an array."""
        src, (row_from, column_from) = 0, (0, 0)
        if source is not None:
            src, (row_from, column_from) = stream.address(source), stream.strides(source)
        dst, (row_to, column_to) = addresses[name] + row * strides[0] * key.dtype.itemsize, strides
        values = {"src": src, "row_from": row_from, "column_from": column_from, "rows": n, "columns": columns}
        jobs.append(job.bind({**values, "dst": dst, "row_to": row_to, "column_to": column_to}))

    for stage in wiring(key.cell):
        for g, gate in enumerate(stage.stage.gates):
            w_x, w_h = gate.split(parameters)
            row = (stage.first_gate + g) * n
            add(w_h, f"wh{stage.number}", g * n, (n, 1), n)
            add(w_x, "wx", row, (1, key.n_gates * n) if key.indices else (n_x, 1), n_x)
            add(parameters[gate.bias], "b", row, (1, 1), 1)
            if key.has_recurrent_bias(stage):
                add(parameters.get(gate.recurrent_bias or ""), f"bh{stage.number}", g * n, (1, 1), 1)
    launch, blocks = stream.kernels(sources(key.cell), options(key.dtype)), min(-(-n * max(n, n_x) // 256), 64)
    for first in range(0, len(jobs), PACK_JOBS):
        batch = jobs[first : first + PACK_JOBS]
        unused = [0] * len(job.names) * (PACK_JOBS - len(batch))
        launch("pack", (blocks, len(batch)), (256, 1), [*itertools.chain(*batch), *unused])


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
