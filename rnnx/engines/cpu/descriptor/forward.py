"""The descriptors of a forward pass and of a single step. Dimensions as in `fields`."""

from functools import lru_cache

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.wiring import Argument, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import panel_vectors
from rnnx.engines.cpu.descriptor.builder import MOST_PASSES, Fields, Pass, Shape, Template, product
from rnnx.engines.cpu.descriptor.fields import KEEP, ZERO, ZH, ZX
from rnnx.engines.cpu.descriptor.layout import Block, Layout, lines
from rnnx.engines.cpu.descriptor.stages import (
    Places,
    conversion,
    kernel_fields,
    kernels_of,
    parameter_block,
    places_of,
    stage_fields,
    value_argument,
)

_ROWS_OF_A_CHUNK = 48  # for a thread with all examples: rows of input sides computed in one product


@lru_cache(maxsize=MOST_PASSES)
class ForwardPass(Pass):
    """A forward pass.

    Its arrays: "block", the first array of `block`; "x"; "lengths", if given; "output 0", ..., the caller's copies of
    the states; the parameters by key; "kept parameters", the first array of `kept`.

    Parameters
    ----------
    cell : Cell
    dtype : numpy.dtype
    shape : Shape
    keys : tuple of str
        Keys of the given parameters.
    keep : bool
        Whether a backward pass may follow.
    has_lengths : bool
    layout : Layout or None
        Layout of x, which the job copies to `block`; None if it reads x in place.
    """

    def __init__(
        self,
        cell: Cell,
        dtype: np.dtype,
        shape: Shape,
        keys: tuple[str, ...],
        keep: bool,
        has_lengths: bool,
        layout: Layout | None,
    ) -> None:
        super().__init__(cell, dtype, shape)
        n_steps, m, n, n_x, _ = shape
        states: list[tuple[int, ...]] = [(n_steps + 1, m, n)] * len(cell.states)
        # Without `keep`, every step overwrites the saved values of the previous one.
        saved: list[tuple[int, ...]] = [(n_steps if keep else 1, m, n)] * len(cell.saved)
        self.block = Block(dtype, [*states, *saved, (0,) if layout is None else (n_steps, m, n_x)])
        self.kept = parameter_block(cell, dtype, shape, keys) if keep else None
        self.outputs = tuple(f"output {k}" for k in range(len(states))) if keep or has_lengths else ()
        self.keys, self.parameters = keys, names_of_parameters(keys)
        self.has_lengths, self.layout = has_lengths, layout

    def build(self, threads: int, unit_parallel: bool) -> Template:
        """Build the descriptor template."""
        t = Template("forward", self.dtype, self.shape, threads, unit_parallel)
        block, x, n_states = t.base("block"), t.base("x"), len(self.cell.states)
        *places, own_x = (block + at for at in self.block.offsets)
        states = places[:n_states]
        if self.has_lengths:
            t.fields["lengths"] = t.base("lengths")
        if self.layout is not None:
            t.fields["conversions"] = [conversion(t, x, self.layout, t.n_x, own_x, zero_past_end=True)]
            x = own_x
        t.fields["outputs"] = [
            {"source": S + t.step, "target": t.base(name)} for S, name in zip(states, self.outputs, strict=False)
        ]
        parameters = dict(zip(self.keys, map(t.base, self.parameters), strict=True))
        if self.kept is not None:
            t.fields["copies"] = _copies(t, self.kept, parameters)
        if t.rows == t.m:
            t.fields["chunk"] = max(1, min(t.n_steps, _ROWS_OF_A_CHUNK // t.m))
        step = t.step if self.kept is not None else 0
        return _finish(t, self.cell, x, parameters, places_of(states, places[n_states:], t.step, step))


def _copies(t: Template, kept: Block, parameters: dict[str, int]) -> list[Fields]:
    target, copies = t.base("kept parameters"), []
    for (rows, columns), source, at in zip(kept.shapes, parameters.values(), kept.offsets, strict=True):
        rows, columns = (1, rows) if columns == 1 else (rows, columns)
        place = {"source": source, "source_row": columns * t.item, "target": target + at}
        copies.append({**place, "rows": rows, "columns": columns})
    return copies


def names_of_parameters(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the array names of parameters: a key alone could be the name of another array."""
    return tuple(f"parameter {key}" for key in keys)


class Step(Pass):
    """A single step from one slot of the states to the other.

    Its arrays: "block", the first array of `block`; the parameters by key.
    """

    def __init__(self, cell: Cell, dtype: np.dtype, shape: Shape, keys: tuple[str, ...], slot: int) -> None:
        super().__init__(cell, dtype, shape)
        _, m, n, n_x, _ = shape
        states, saved = [(2, m, n)] * len(cell.states), [(m, n)] * len(cell.saved)
        self.block = Block(dtype, [*states, *saved, (m, n_x)])
        self.keys, self.parameters, self.slot = keys, names_of_parameters(keys), slot

    def build(self, threads: int, unit_parallel: bool) -> Template:
        """Build the descriptor template."""
        t = Template("forward", self.dtype, self.shape, threads, unit_parallel)
        block, n_states = t.base("block"), len(self.cell.states)
        *places, x = (block + at for at in self.block.offsets)
        states = [at + self.slot * t.step for at in places[:n_states]]
        values = places_of(states, places[n_states:], -t.step if self.slot else t.step, 0)
        t.fields["pack"] = 0
        parameters = dict(zip(self.keys, map(t.base, self.parameters), strict=True))
        return _finish(t, self.cell, x, parameters, values)


def _finish(t: Template, cell: Cell, x: int, parameters: dict[str, int], places: Places) -> Template:
    row = 8 if t.indices else t.n_x * t.item
    t.fields |= {"x": x, "x_row": row, "x_step": t.m * row}
    kernels = kernels_of(cell, t.dtype, (True,) + (False,) * (len(cell.states) - 1))
    stages = t.fields["stages"] = []
    for wired in wiring(cell):
        arguments = [_argument(t, wired, a, places) for a in wired.forward_arguments()]
        kernel = kernel_fields(t, wired, kernels, arguments)
        has_bias_h = any(gate.recurrent_bias in parameters for gate in wired.stage.gates)
        stages.append({**stage_fields(t, wired, parameters, places), **_packed(t, wired, has_bias_h), **kernel})
    widest = max(stage["n_vectors"] for stage in stages) * t.size
    t.fields["z_size"] = lines(widest * t.rows * t.fields["chunk"])
    t.scratch(z=t.fields["z_size"] * (len(stages) + 1))
    return t.finish()


def _packed(t: Template, wired: StageWiring, has_bias_h: bool) -> Fields:
    """Return the fields of the packed weights of a stage."""
    vectors, nv = t.vectors(t.n) * wired.n_gates, panel_vectors(wired.n_gates)
    columns = vectors * t.lanes
    bias_h = t.take(columns) if has_bias_h or not wired.stage.additive else 0
    weights = {"w_h": t.take(t.n, columns), "w_x": t.take(t.n_x, columns), "bias": t.take(columns), "bias_h": bias_h}
    panels = {"nv": nv, "nv_x": vectors if t.indices else nv, "product": product(t.dtype, nv)}
    return {**weights, **panels, "n_vectors": vectors}


def _argument(t: Template, wired: StageWiring, argument: Argument, places: Places) -> Fields:
    if argument.slot is None:
        return {"side": {"zx": ZX, "zh": ZH}[argument.role], "vector": t.size * wired.n_gates}
    past_end = {"reads": 0, "writes": KEEP if wired.is_last else ZERO, "saves": ZERO}[argument.role]
    return value_argument(t, places[argument.slot], past_end)
