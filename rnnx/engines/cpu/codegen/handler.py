"""What XLA calls: a handler of its foreign function interface, whose C structures are read at fixed offsets.

They are in ``xla/ffi/api/c_api.h`` below ``jax.ffi.include_dir()``.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen.ir import I32, I64, Function

_EXTENSION, _API, _ATTRIBUTES = 8, 16, 160  # of a call frame
_MINOR = 36  # the minor version, of an API
_METADATA = 24  # of the extension that asks for it
_VERSION, _TRAITS, _STATE = 24, 32, 40  # of the metadata, which may end before the last one


def emit_handler(module: ir.Module, dtype: Any) -> None:
    """Emit a function of a call frame: answer a request for metadata, or call a function of (frame, record, 0).

    The record's address is the only attribute of the call; the record begins with the address of the function.
    """
    f = Function(module, "handler", ("frame",), dtype, public=True, returns=I64)
    frame = f.arguments.frame
    extension = f.load(f.sum(frame, _EXTENSION), I64)
    asks, runs = f.ir.append_basic_block("asks"), f.ir.append_basic_block("runs")
    f.build.cbranch(f.build.icmp_signed("==", extension, I64(0)), runs, asks)
    f.build.position_at_end(asks)
    metadata = f.load(f.sum(extension, _METADATA), I64)
    minor = f.build.load(f.pointer(f.sum(f.load(f.sum(frame, _API), I64), _MINOR), I32))
    for value, at in ((I32(0), _VERSION), (minor, _VERSION + 4), (I32(0), _TRAITS)):
        f.build.store(value, f.pointer(f.sum(metadata, at), I32))
    with f.build.if_then(f.build.not_(f.less(f.load(metadata, I64), _STATE + 8))):
        f.build.store(I64(0), f.pointer(f.sum(metadata, _STATE), I64))
    f.end(I64(0))
    f.build.position_at_end(runs)
    scalar = f.load(f.load(f.sum(frame, _ATTRIBUTES), I64), I64)
    record = f.load(f.load(f.sum(scalar, 8), I64), I64)
    f.call_compiled(f.load(record, I64), frame, record, I64(0))
    f.end(I64(0))
