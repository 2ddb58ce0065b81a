"""The descriptor of a backward pass. Dimensions as in `fields`."""

from functools import lru_cache

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import KC, MC
from rnnx.engines.cpu.codegen.pointwise import backward_arguments
from rnnx.engines.cpu.descriptor.builder import MOST_PASSES, Fields, Pass, Shape, Template
from rnnx.engines.cpu.descriptor.fields import ZERO
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


@lru_cache(maxsize=MOST_PASSES)
class BackwardPass(Pass):
    """A backward pass.

    Its arrays: "state 0", ...; "saved 0", ...; "x"; "dx", except for index inputs; "d_state 0", ..., the cotangents of
    the final states, overwritten by those of the initial ones; "d_given 0", ..., the caller's cotangents of all steps;
    "kept parameters", the first array of `kept`; "block", the first array of `block`; "lengths", if given.

    Parameters
    ----------
    cell : Cell
    dtype : numpy.dtype
    shape : Shape
    keys : tuple of str
        Keys of the given parameters.
    has_lengths : bool
    layouts : tuple of Layout or None
        Per state, the layout of the caller's cotangents; None if there are none.
    """

    def __init__(
        self,
        cell: Cell,
        dtype: np.dtype,
        shape: Shape,
        keys: tuple[str, ...],
        has_lengths: bool,
        layouts: tuple[Layout | None, ...],
    ) -> None:
        super().__init__(cell, dtype, shape)
        self.kept = parameter_block(cell, dtype, shape, keys)
        self.keys, self.has_lengths, self.layouts = keys, has_lengths, layouts
        shapes: list[tuple[int, ...]] = []
        for stage in cell.stages:  # dw, and the sums for both biases, in whole vectors
            n_c = len(stage.gates) * shape.n
            columns = lines(n_c * dtype.itemsize) // dtype.itemsize
            shapes += [(n_c, shape.n + shape.n_x), (columns,), (columns,)]
        self.block = Block(dtype, shapes)
        self.values = (*_names("state", cell.states), *_names("saved", cell.saved), "x")
        self.d_states, self.d_given = _names("d_state", cell.states), _names("d_given", cell.states)

    def build(self, threads: int, unit_parallel: bool) -> Template:
        """Build the descriptor template."""
        t = Template("backward", self.dtype, self.shape, threads, unit_parallel)
        cell = self.cell
        *values, x = map(t.base, self.values)
        places = places_of(values[: len(cell.states)], values[len(cell.states) :], t.step, t.step)
        t.fields |= {"x": x, "dx": 0 if t.indices else t.base("dx"), "flat_dx": t.rows == t.m}
        cotangents: Places = {}
        for k, ds in enumerate(map(t.base, self.d_states)):
            cotangents |= {Slot("state", k): (ds, 0), Slot("state", k, after=True): (ds, 0)}
        for wired in wiring(cell)[:-1]:
            cotangents |= {slot: (t.take(t.m, t.n), 0) for slot in wired.writes}
        given, t.fields["conversions"] = self._given(t)
        kept = t.base("kept parameters")
        parameters = dict(zip(self.keys, (kept + at for at in self.kept.offsets), strict=True))
        if self.has_lengths:
            t.fields["lengths"] = t.base("lengths")
        t.fields["stages"] = [
            stage_fields(t, wired, parameters, places) | self._stage(t, wired, places, cotangents, given)
            for wired in wiring(cell)
        ]
        block, names = t.base("block"), ("dw", "db_x", "db_h")
        for i, at in enumerate(self.block.offsets):
            t.fields["stages"][i // 3][names[i % 3]] = block + at
        columns = (t.vectors(t.n) + (0 if t.indices else t.vectors(t.n_x))) * t.lanes
        t.scratch(
            block_a=KC * (MC + t.lanes) * t.item,
            block_b=min(KC, t.n_steps * t.m) * columns * t.item,
        )
        return t.finish()

    def _given(self, t: Template) -> tuple[Places, list[Fields]]:
        """Return the places of the given cotangents, and the conversions of those that are not time-major."""
        given: Places = {}
        conversions = []
        for k, (name, layout) in enumerate(zip(self.d_given, self.layouts, strict=True)):
            if layout is not None:
                at = source = t.base(name)
                if not layout.time_major:
                    at = t.take(t.n_steps, t.m, t.n)
                    conversions.append(conversion(t, source, layout, t.n, at, zero_past_end=False))
                given[Slot("state", k, after=True)] = (at, t.step)
        return given, conversions

    def _stage(self, t: Template, wired: StageWiring, places: Places, cotangents: Places, given: Places) -> Fields:
        n_gates, n_c = wired.n_gates, wired.n_gates * t.n
        sides = {a.role: t.take(t.n_steps, t.m, n_c) for a in wired.backward_arguments() if a.per_gate}
        by_role = {"d_writes": cotangents, "d_reads": cotangents, "d_given": given}

        def record(a: Argument) -> Fields:
            if a.slot is None:
                row = {"row": t.row * n_gates, "step": t.step * n_gates, "vector": t.size}
                return {**row, "address": sides[a.role], "past_end": ZERO}
            return value_argument(t, by_role.get(a.role, places)[a.slot])

        has_given = tuple(layout is not None for layout in self.layouts)
        arguments = [record(a) for a in backward_arguments(wired, has_given)]
        return {
            **kernel_fields(t, wired, kernels_of(self.cell, t.dtype, has_given), arguments),
            "dz_x": sides["dzx"],
            "dz_h": sides.get("dzh", sides["dzx"]),
            "d_operand": cotangents[wired.operand][0],
            "w_h": t.take(n_c, t.vectors(t.n) * t.lanes),
            "w_x": 0 if t.indices else t.take(n_c, t.vectors(t.n_x) * t.lanes),
            "table": t.take(t.n_x, t.vectors(n_c) * t.lanes) if t.indices else 0,
        }


def _names(name: str, of: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name} {k}" for k in range(len(of)))
