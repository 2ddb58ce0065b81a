"""Intrinsics that Numba lacks: records and integers by address, calls by address, atomics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import extending, from_dtype, types
from numba.core import cgutils

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I64

intrinsic: Any = extending.intrinsic(
    prefer_literal=True
)  # its own annotations count the typing context among the arguments
_BYTE = ir.IntType(8).as_pointer()


def _field(builder: ir.IRBuilder, record: Any, pointer: ir.Value, name: str) -> ir.Value:
    """A pointer to a field of a Numba record."""
    at = builder.add(builder.ptrtoint(pointer, I64), I64(record.offset(name)))
    return builder.inttoptr(at, I64.as_pointer())


def record_at(dtype: np.dtype) -> Any:
    """Return a function: the record at an address."""
    record = from_dtype(dtype)

    @intrinsic
    def at(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(record))

        return record(types.int64), codegen

    return at


def item_of(dtype: np.dtype, name: str, items: np.dtype) -> Any:
    """Return a function: record i of the list in field `name`, which holds its distance in bytes from the record."""
    owner, item = from_dtype(dtype), from_dtype(items)

    @intrinsic
    def at(typingctx, record, i):
        def codegen(context, builder, signature, args):
            distance = builder.load(_field(builder, owner, args[0], name))
            first = builder.add(builder.ptrtoint(args[0], I64), distance)
            place = builder.add(first, builder.mul(args[1], I64(items.itemsize)))
            return builder.inttoptr(place, context.get_value_type(item))

        return item(owner, types.int64), codegen

    return at


@intrinsic
def address_of(typingctx, record, name):
    """Address of a field of a record."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(_field(builder, record, args[0], name.literal_value), I64)

    return types.int64(record, name), codegen


@intrinsic
def load(typingctx, address, i):
    """Integer i of the list at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.gep(builder.inttoptr(args[0], I64.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def store(typingctx, address, i, value):
    """Set integer i of the list at an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], builder.gep(builder.inttoptr(args[0], I64.as_pointer()), [args[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, record, name):
    """Value of a field, in order with other threads."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_field(builder, record, args[0], name.literal_value), "seq_cst", 8)

    return types.int64(record, name), codegen


def _read_modify_write(operation: str) -> Any:
    @intrinsic
    def change(typingctx, record, name, value):
        def codegen(context, builder, signature, args):
            place = _field(builder, record, args[0], name.literal_value)
            return builder.atomic_rmw(operation, place, args[2], "seq_cst")

        return types.int64(record, name, types.int64), codegen

    return change


atomic_add = _read_modify_write("add")  # each returns the value before
atomic_exchange = _read_modify_write("xchg")


_X86, _ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (ir.Constant(ir.IntType(32), 1),))
_PAUSES: dict[str, tuple[str, tuple[ir.Constant, ...]]] = {"x86_64": _X86, "i686": _X86, "aarch64": _ARM, "arm64": _ARM}


@intrinsic
def pause(typingctx):
    """Tell the CPU that this thread is in a spin loop."""
    processor = binding.get_process_triple().split("-")[0]
    name, arguments = _PAUSES.get(processor, (None, ()))

    def codegen(context, builder, signature, args):
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


def _caller(arguments: Sequence[str], job: bool = False) -> Any:
    """Return a function that calls the function at an address with these arguments, by position or keyword."""

    def codegen(context, builder, signature, args):
        integers = [I64] * len(arguments)
        if job:  # compiled by Numba: its results come first, a value and an exception, neither of which it sets
            nothing = cgutils.alloca_once(builder, I64)  # once in a function, not once in a loop
            kind = ir.FunctionType(ir.IntType(32), [_BYTE, _BYTE, *integers])
            given = [builder.bitcast(nothing, _BYTE)] * 2 + list(args[1:])
        else:
            kind, given = ir.FunctionType(ir.VoidType(), integers), list(args[1:])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    scope: dict[str, Any] = {"types": types, "codegen": codegen}
    names, signature = ", ".join(arguments), ", ".join(["types.int64"] * (len(arguments) + 1))
    exec(f"def call(typingctx, function, {names}):\n    return types.void({signature}), codegen", scope)
    return intrinsic(scope["call"])


call_product = _caller(leaves.PRODUCT)
call_copy = _caller(leaves.COPY)
call_transpose = _caller(leaves.TRANSPOSE)
call_add_rows = _caller(leaves.ADD_ROWS)
call_kernel = _caller(leaves.KERNEL)
call_job = _caller(("me", "n", "descriptor"), job=True)


@intrinsic
def call_system(typingctx, address, descriptor, buffer, count):
    """Call ``read`` or ``write`` of the C library."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(I64, [ir.IntType(32), I64, I64])
        given = [builder.trunc(args[1], ir.IntType(32)), args[2], args[3]]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def yield_to(typingctx, address):
    """Let other threads run: call the system's function at this address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
