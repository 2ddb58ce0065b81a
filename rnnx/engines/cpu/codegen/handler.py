"""What XLA calls: a handler of its foreign function interface."""

from typing import Any

import numpy as np
from llvmlite import ir

from rnnx.engines.cpu.codegen.call_frame import API, EXTENSION, FRAME, METADATA, SCALAR, offset
from rnnx.engines.cpu.codegen.ir import I32, I64, Function


def emit_handler(module: ir.Module, dtype: Any) -> None:
    """Emit a function of a call frame: answer a request for metadata, or call a function of (frame, record, 0).

    The record's address is the only attribute of the call; the record begins with the address of the function.
    """
    f = Function(module, "handler", ("frame",), dtype, public=True, returns=I64)
    frame = f.arguments.frame

    def at(address: Any, structure: np.dtype, name: str) -> Any:
        return f.sum(address, offset(structure, name))

    def field(address: Any, structure: np.dtype, name: str) -> Any:
        return f.load(at(address, structure, name), I64)

    extension = field(frame, FRAME, "extension")
    asks, runs = f.ir.append_basic_block("asks"), f.ir.append_basic_block("runs")
    f.build.cbranch(f.build.icmp_signed("==", extension, I64(0)), runs, asks)
    f.build.position_at_end(asks)
    metadata = field(extension, EXTENSION, "metadata")
    minor = f.build.load(f.pointer(at(field(frame, FRAME, "api"), API, "minor"), I32))
    for name, value in {"major": I32(0), "minor": minor, "traits": I32(0)}.items():
        f.build.store(value, f.pointer(at(metadata, METADATA, name), I32))
    has_state = f.build.not_(f.less(field(metadata, METADATA, "size"), METADATA.itemsize))  # it may end before that
    with f.build.if_then(has_state):
        f.build.store(I64(0), f.pointer(at(metadata, METADATA, "state"), I64))
    f.end(I64(0))
    f.build.position_at_end(runs)
    scalar = f.load(field(frame, FRAME, "attributes"), I64)
    record = f.load(field(scalar, SCALAR, "value"), I64)
    f.call_compiled(f.load(record, I64), frame, record, I64(0))
    f.end(I64(0))
