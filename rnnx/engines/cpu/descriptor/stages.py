"""What forward and backward descriptors share: parameters, kernels and their arguments."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.cell import Gate
from rnnx.cells.wiring import Slot, StageWiring
from rnnx.engines.cpu.codegen.pointwise import emit_kernels
from rnnx.engines.cpu.descriptor.builder import Fields, Shape, Template
from rnnx.engines.cpu.descriptor.layout import Block, Layout
from rnnx.engines.cpu.runtime import object_cache

Places = dict[Slot, tuple[int, int]]  # address at step 0, and stride between steps


@lru_cache(maxsize=256)
def kernels_of(cell: Cell, dtype: np.dtype, given: tuple[bool, ...]) -> Mapping[str, int]:
    """Return the addresses of a cell's elementwise kernels, by name."""
    return object_cache.functions(lambda module: emit_kernels(module, cell, dtype, given))


def places_of(states: list[int], saved: list[int], step: int, saved_step: int) -> Places:
    """Return the places of a pass's values, given the addresses of the initial states and saved values."""
    places: Places = {Slot("saved", k): (at, saved_step) for k, at in enumerate(saved)}
    for k, at in enumerate(states):
        places |= {Slot("state", k): (at, step), Slot("state", k, after=True): (at + step, step)}
    return places


def parameter_shapes(cell: Cell, shape: Shape, keys: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the given parameters, in order."""
    shapes = {key: s for gate in cell.gates for key, (_, s) in gate.shapes(shape.n_x, shape.n).items()}
    return {key: shapes[key] for key in keys}


@lru_cache(maxsize=256)
def parameter_block(cell: Cell, dtype: np.dtype, shape: Shape, keys: tuple[str, ...]) -> Block:
    """Return the block for copies of the parameters."""
    return Block(dtype, parameter_shapes(cell, shape, keys).values())


def conversion(t: Template, source: int, layout: Layout, features: int, target: int, zero_past_end: bool) -> Fields:
    """Return the record of an array to convert to time-major layout."""
    feature, example, step = layout.strides
    feature = t.item if layout.by_feature else feature
    strides = {"feature_stride": feature, "example_stride": example, "step_stride": step}
    return {**strides, "source": source, "features": features, "target": target, "zero_past_end": zero_past_end}


def _gate(t: Template, gate: Gate, parameters: Mapping[str, int]) -> Fields:
    """Return the record of a gate, given the addresses of the parameters."""
    row_h, row_x = t.row, t.n_x * t.item
    if gate.is_joint:
        w_h = parameters[gate.weights[0]]
        w_x = w_h + row_h
        row_h = row_x = row_h + row_x
    else:
        w_x, w_h = (parameters[key] for key in gate.weights)
    bias_h = parameters.get(gate.recurrent_bias or "", 0)
    weights = {"w_h": w_h, "w_h_row": row_h, "w_x": w_x, "w_x_row": row_x}
    return {**weights, "bias": parameters[gate.bias], "bias_h": bias_h}


def stage_fields(t: Template, wired: StageWiring, parameters: Mapping[str, int], places: Places) -> Fields:
    """Return the fields of a stage that both directions use."""
    stage = wired.stage
    operand, step = places[wired.operand]
    gates = [_gate(t, gate, parameters) for gate in stage.gates]
    flags = {"additive": stage.additive, "is_last": wired.is_last}
    return {**flags, "gates": gates, "operand": operand, "operand_step": step}


def kernel_fields(t: Template, wired: StageWiring, kernels: Mapping[str, int], arguments: list[Fields]) -> Fields:
    """Return the fields of the elementwise kernel of a stage."""
    name = f"{t.job}_{wired.number}"
    return {"kernel": kernels[name], "kernel_tail": kernels[f"{name}_tail"], "arguments": arguments}


def value_argument(t: Template, place: tuple[int, int], past_end: int = 0) -> Fields:
    """Return the record of a kernel argument that is a value of a step or its cotangent."""
    address, step = place
    return {"address": address, "step": step, "row": t.row, "vector": t.size, "past_end": past_end}
