"""The records of `descriptor.fields`, for Numba."""

from typing import Any

from numba import njit

from rnnx.engines.cpu.codegen.intrinsics import item_of, record_at
from rnnx.engines.cpu.codegen.leaves import KERNEL_HEADER
from rnnx.engines.cpu.descriptor import fields

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
function: Any = njit(**_OPTIONS)

HEADER_SIZE = KERNEL_HEADER.itemsize
pass_at = record_at(fields.PASS)
matrix_at = record_at(fields.MATRIX)
dense_gradients_at = record_at(fields.DENSE_GRADIENTS)
table_at = record_at(fields.TABLE)
rows_at = record_at(fields.ROWS)
masks_at = record_at(fields.MASKS)
header_at = record_at(KERNEL_HEADER)
conversion_of = item_of(fields.PASS, "conversions", fields.CONVERSION)
copy_of = item_of(fields.PASS, "copies", fields.COPY)
dense_of = item_of(fields.PASS, "dense", fields.DENSE)
stage_of = item_of(fields.PASS, "stages", fields.STAGE)
output_of = item_of(fields.STAGE, "outputs", fields.OUTPUT)
gate_of = item_of(fields.STAGE, "gates", fields.GATE)
vector_of = item_of(fields.STAGE, "vectors", fields.VECTOR)
argument_of = item_of(fields.STAGE, "arguments", fields.ARGUMENT)
