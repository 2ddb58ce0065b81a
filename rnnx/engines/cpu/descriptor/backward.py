"""The plan of a backward pass. See `builder`; dimensions as in `cpu`."""

from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.cells import Cell
from rnnx.engines.cpu.codegen.gemm import K_BLOCK, ROW_BLOCK, n_vectors
from rnnx.engines.cpu.codegen.pointwise import N_STRIDES
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.descriptor.builder import Shape, Template, lines
from rnnx.engines.cpu.descriptor.stages import (
    MOST_TEMPLATES,
    Layout,
    OverTime,
    conversion,
    gate_lists,
    kernels_of,
    parameter_shapes,
    places_in_block,
    pointer_values,
    stage_values,
)


def gradient_shapes(cell: Cell, dtype: np.dtype, shape: Shape) -> list[tuple[int, ...]]:
    """Per stage dW, the sums for the biases and those for the recurrent biases, in whole vectors."""
    n, n_x = shape.n, shape.n_x
    shapes: list[tuple[int, ...]] = []
    for stage in cell.stages:
        n_c = len(stage.gates) * n
        columns = lines(n_c * dtype.itemsize) // dtype.itemsize
        shapes += [(n_c, n + n_x), (columns,), (columns,)]
    return shapes


@lru_cache(maxsize=MOST_TEMPLATES)
def backward_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    ends: bool,
    layouts: tuple[Layout | None, ...],
    recurrent: tuple[tuple[bool, ...], ...],
) -> Template:
    """The plan of a backward pass.

    Bases: states, saved values, inputs, dx unless inputs are indices, cotangents of the state, those from outside that
    are given, parameters, the block of `gradient_shapes`; lengths if there are.
    """
    t = Template("backward", dtype, shape, threads, wide)
    v = t.values
    time = OverTime(cell, [t.base() for _ in cell.states], [t.base() for _ in cell.saved], t.step, t.step)
    v[P.X], v[P.DX], v[P.FLAT_DX] = t.base(), 0 if t.indices else t.base(), int(t.rows == t.m)
    ds = [t.base() for _ in cell.states]
    outside, conversions = [], []
    for layout in layouts:
        if layout is not None:
            outside.append(t.base())
            if not layout.time_major:
                source, outside[-1] = outside[-1], t.take(t.n_steps, t.m, t.n)
                conversions.append(conversion(t, source, layout, t.n, outside[-1], ends=False))
    t.conversions(conversions)
    parameters = [t.base() for _ in parameter_shapes(cell, t.n, t.n_x, recurrent)]
    gradients = t.base()
    if ends:
        v[P.LENGTHS] = t.base()
    kernels = kernels_of(cell, dtype, tuple(layout is not None for layout in layouts))
    gates = gate_lists(t, cell, recurrent, iter(parameters))
    stages = _backward_stages(t, cell, time, gates, kernels, ds, outside)
    places, _ = places_in_block(t.item, tuple(gradient_shapes(cell, dtype, shape)))
    for i, stage in enumerate(stages):
        stage[P.DW], stage[P.DB_X], stage[P.DB_H] = (gradients + at for at in places[3 * i : 3 * i + 3])
    most = max(stage[P.N_POINTERS] for stage in stages)
    columns = (n_vectors(dtype, t.n) + (0 if t.indices else n_vectors(dtype, t.n_x))) * t.lanes
    t.scratch(
        ARGUMENTS=8 * (N_STRIDES + most),
        BLOCK_A=K_BLOCK * (ROW_BLOCK + t.lanes) * t.item,
        BLOCK_B=min(K_BLOCK, t.n_steps * t.m) * columns * t.item,
    )
    return t.finish(stages)


def _backward_stages(
    t: Template, cell: Cell, time: OverTime, gates: list[int], kernels: Any, ds: list[int], outside: list[int]
) -> list[dict[int, int]]:
    mid = [t.take(t.m, t.n) for _ in cell.saved]  # cotangents between the stages
    stages = []
    for i, stage in enumerate(cell.stages):
        last, n_c = i == len(cell.stages) - 1, len(stage.gates) * t.n
        d_out = ds if last else mid[cell.saved_slices[i][1]]
        d_in = ds if i == 0 else mid[cell.saved_slices[i - 1][1]]
        dz = [t.take(t.n_steps, t.m, n_c) for _ in range(1 if stage.additive else 2)]
        pointers = [(d, 0, 0) for d in d_out] + [(d, t.step, 0) for d in outside if last]
        pointers += [(*pair, 0) for pair in (*time.into(i), *time.out_of(i), *time.kept(i))]
        pointers += [(d, t.step * len(stage.gates), 1) for d in dz] + [(d, 0, 0) for d in d_in]
        stages.append(
            {
                **stage_values(cell, i, gates[i]),
                P.W_H: t.take(n_c, n_vectors(t.dtype, t.n) * t.lanes),
                P.W_X: 0 if t.indices else t.take(n_c, n_vectors(t.dtype, t.n_x) * t.lanes),
                P.TABLE: t.take(t.n_x, n_vectors(t.dtype, n_c) * t.lanes) if t.indices else 0,
                P.OPERAND: time.into(i)[0][0],
                P.KERNEL: kernels[f"backward_{i}"],
                P.KERNEL_TAIL: kernels[f"backward_{i}_tail"],
                P.DZ_X: dz[0],
                P.DZ_H: dz[-1],
                P.D_OPERAND: d_in[0],
                **pointer_values(t, pointers),
            }
        )
    return stages
