"""The plan of a forward pass, and that of a single step. See `builder`; dimensions as in `cpu`."""

from functools import lru_cache

import numpy as np

from rnnx.cells import Cell
from rnnx.engines.cpu.codegen.gemm import n_vectors, panel_vectors
from rnnx.engines.cpu.codegen.pointwise import N_STRIDES
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.descriptor.builder import Shape, Template, lines, product
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

_ROWS_OF_A_CHUNK = 48  # a thread that has all examples computes the input sides of so many rows at once


@lru_cache(maxsize=MOST_TEMPLATES)
def forward_shapes(cell: Cell, shape: Shape, keep: bool, own_x: bool) -> list[tuple[int, ...]]:
    """States, saved values (without `keep` every step writes over those of the step before), inputs."""
    n_steps, m, n, n_x, _ = shape
    shapes: list[tuple[int, ...]] = [(n_steps + 1, m, n)] * len(cell.states)
    shapes += [(n_steps if keep else 1, m, n)] * len(cell.saved)
    return [*shapes, (n_steps, m, n_x) if own_x else (0,)]


@lru_cache(maxsize=MOST_TEMPLATES)
def forward_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    keep: bool,
    ends: bool,
    layout: Layout | None,
    recurrent: tuple[tuple[bool, ...], ...],
) -> Template:
    """The plan of a forward pass; `layout` is None for x that a job reads as it is.

    Bases: the block of states, saved values and inputs; x; lengths if there are; the caller's states if they are
    copies; the parameters; if they are kept, the block of their copies.
    """
    t = Template("forward", dtype, shape, threads, wide)
    v, n_states, own = t.values, len(cell.states), keep or ends
    block, x = t.base(), t.base()
    places, _ = places_in_block(t.item, tuple(forward_shapes(cell, shape, keep, layout is not None)))
    time = OverTime(
        cell,
        [block + at for at in places[:n_states]],
        [block + at for at in places[n_states:-1]],
        t.step,
        t.step if keep else 0,
    )
    if ends:
        v[P.LENGTHS] = t.base()
    v[P.X], v[P.X_ROW] = x, 8 if t.indices else t.n_x * t.item
    v[P.X_STEP] = t.m * v[P.X_ROW]
    if layout is not None:
        v[P.X] = block + places[-1]
        t.conversions([conversion(t, x, layout, t.n_x, v[P.X], ends=True)])
    if own:
        pairs = [value for S in time.states for value in (S + t.step, t.base())]
        v[P.N_OUTPUTS], v[P.OUTPUTS] = n_states, t.append(pairs)
    shapes = parameter_shapes(cell, t.n, t.n_x, recurrent)
    parameters = [t.base() for _ in shapes]
    if keep:
        copies, (to, _) = t.base(), places_in_block(t.item, tuple(shapes))
        values = []
        for source, (rows, columns), at in zip(parameters, shapes, to, strict=True):
            rows, columns = (1, rows) if columns == 1 else (rows, columns)
            values += [source, columns * t.item, rows, columns, copies + at]
        v[P.COPIES], v[P.N_COPIES] = t.append(values), len(shapes)
    if t.rows == t.m:
        v[P.CHUNK] = max(1, min(t.n_steps, _ROWS_OF_A_CHUNK // t.m))
    return _finish_forward(t, cell, time, gate_lists(t, cell, recurrent, iter(parameters)))


@lru_cache(maxsize=MOST_TEMPLATES)
def step_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    recurrent: tuple[tuple[bool, ...], ...],
    slot: int,
) -> Template:
    """The plan of one step from one place of the state to the other.

    Bases: the block of states (both places), saved values and inputs; the parameters.
    """
    t = Template("forward", dtype, shape, threads, wide)
    n_states, block = len(cell.states), t.base()
    shapes = [*[(2, t.m, t.n)] * n_states, *[(t.m, t.n)] * len(cell.saved), (t.m, t.n_x)]
    places, _ = places_in_block(t.item, tuple(shapes))
    states = [block + at + slot * t.step for at in places[:n_states]]
    time = OverTime(cell, states, [block + at for at in places[n_states:-1]], -t.step if slot else t.step, 0)
    t.values[P.PACK] = 0
    t.values[P.X], t.values[P.X_ROW] = block + places[-1], t.n_x * t.item
    parameters = [t.base() for _ in parameter_shapes(cell, t.n, t.n_x, recurrent)]
    return _finish_forward(t, cell, time, gate_lists(t, cell, recurrent, iter(parameters)))


def _finish_forward(t: Template, cell: Cell, time: OverTime, gates: list[int]) -> Template:
    stages, v = _forward_stages(t, cell, time, gates), t.values
    widest = max(stage[P.VECTORS] for stage in stages) * t.size
    v[P.Z_SIZE] = lines(widest * t.rows * v[P.CHUNK])
    most = max(stage[P.N_POINTERS] for stage in stages)
    t.scratch(ARGUMENTS=8 * (N_STRIDES + 2 + most), Z=v[P.Z_SIZE] * (len(stages) + 1))
    return t.finish(stages)


def _forward_stages(t: Template, cell: Cell, time: OverTime, gates: list[int]) -> list[dict[int, int]]:
    kernels = kernels_of(cell, t.dtype, (True,) + (False,) * (len(cell.states) - 1))
    stages = []
    for i, stage in enumerate(cell.stages):
        into, n_gates = time.into(i), len(stage.gates)
        vectors = n_vectors(t.dtype, t.n) * n_gates
        columns = vectors * t.lanes
        panel = panel_vectors(n_gates)
        stages.append(
            {
                **stage_values(cell, i, gates[i]),
                P.W_H: t.take(t.n, columns),
                P.W_X: t.take(t.n_x, columns),
                P.BIAS: t.take(columns),
                P.BIAS_H: 0 if stage.additive else t.take(columns),
                P.VECTORS: vectors,
                P.NV: panel,
                P.NV_X: vectors if t.indices else panel,
                P.PRODUCT: product(t.dtype, panel),
                P.OPERAND: into[0][0],
                P.OPERAND_STEP: into[0][1],
                P.KERNEL: kernels[f"forward_{i}"],
                P.KERNEL_TAIL: kernels[f"forward_{i}_tail"],
                P.N_IN: len(into),
                **pointer_values(t, [(*pair, 0) for pair in (*into, *time.out_of(i), *time.kept(i))]),
            }
        )
    return stages
