"""What the plans of both directions have in common: how arrays lie, what a stage reads and writes.

Dimensions: as in `cpu`.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.engines.cpu.codegen.pointwise import emit_kernels
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.descriptor.builder import Template, lines
from rnnx.engines.cpu.runtime import object_cache

MOST_TEMPLATES = 256  # that are kept, of each kind


class Layout(NamedTuple):
    """How a public array (features, m, T) lies in memory, as far as a job has to know."""

    strides: tuple[int, ...]
    time_major: bool  # (T, m, features) in C order as it is
    by_feature: bool  # features are contiguous; else steps are


def conversion(template: Template, source: int, layout: Layout, features: int, to: int, ends: bool) -> list[int]:
    """The entry of an array that the job makes time-major."""
    feature, example, step = layout.strides
    return [to, features, source, template.item if layout.by_feature else feature, example, step, int(ends)]


@lru_cache(maxsize=MOST_TEMPLATES)
def places_in_block(item: int, shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], int]:
    """Where the arrays of a block begin, and how large it is."""
    places, size = [], 0
    for shape in shapes:
        places.append(size)
        size += lines(math.prod(shape) * item)
    return places, size


@lru_cache(maxsize=256)
def kernels_of(cell: Cell, dtype: np.dtype, external: tuple[bool, ...]) -> Any:
    """The addresses of a cell's pointwise kernels, by name."""
    return object_cache.functions(lambda module: emit_kernels(module, cell, dtype, external))


class OverTime(NamedTuple):
    """Addresses of the arrays over time, and their strides from step to step."""

    cell: Cell
    states: Sequence[int]
    saved: Sequence[int]
    step: int  # of the states
    saved_step: int

    def into(self, i: int) -> list[tuple[int, int]]:
        """What enters stage i: (address at step 0, stride)."""
        if i == 0:
            return [(s, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i - 1][1]]]

    def out_of(self, i: int) -> list[tuple[int, int]]:
        """What leaves it."""
        if i == len(self.cell.stages) - 1:
            return [(s + self.step, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i][1]]]

    def kept(self, i: int) -> list[tuple[int, int]]:
        """What else it saves."""
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i][0]]]


def parameter_shapes(cell: Cell, n: int, n_x: int, recurrent: Any) -> list[tuple[int, int]]:
    """Shapes of the arrays of `_parameters`."""
    shapes = []
    for stage, biases in zip(cell.stages, recurrent, strict=True):
        for gate, other in zip(stage.gates, biases, strict=True):
            shapes += [(n, n_x), (n, n)] if len(gate.weights) == 2 else [(n, n + n_x)]
            shapes += [(n, 1)] * (1 + other)
    return shapes


def gate_lists(
    template: Template, cell: Cell, recurrent: tuple[tuple[bool, ...], ...], bases: Iterator[int]
) -> list[int]:
    """The lists of the gates' parameters, per stage, for arrays at the given bases in the order of `_parameters`."""
    n, n_x, item = template.n, template.n_x, template.item
    places = []
    for stage, biases in zip(cell.stages, recurrent, strict=True):
        values: list[int] = []
        for gate, other in zip(stage.gates, biases, strict=True):
            if len(gate.weights) == 2:
                inputs, hidden = next(bases), next(bases)
                values += [hidden, n * item, inputs, n_x * item]
            else:
                both = next(bases)
                values += [both, (n + n_x) * item, both + n * item, (n + n_x) * item]
            values += [next(bases), next(bases) if other else 0]
        places.append(template.append(values))
    return places


def stage_values(cell: Cell, i: int, gates: int) -> dict[int, int]:
    """What both directions say of stage i."""
    stage = cell.stages[i]
    return {
        P.N_GATES: len(stage.gates),
        P.GATES: gates,
        P.ADDITIVE: int(stage.additive),
        P.LAST: int(i == len(cell.stages) - 1),
        P.N_OUT: len(stage.out),
        P.N_KEPT: len(stage.saved),
    }


def pointer_values(template: Template, pointers: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """The kernel's arrays: (address at step 0, stride of a step, 1 if a row has all gates)."""
    flat = [value for pointer in pointers for value in pointer]
    return {P.POINTERS: template.append(flat), P.N_POINTERS: len(pointers)}
