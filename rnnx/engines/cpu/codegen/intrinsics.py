"""Numba intrinsics: access to records and integers by address, calls by address, atomics."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import extending, from_dtype, types
from numba.core import cgutils

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, declare

Emit = Callable[..., Any]  # (builder, *argument values) -> result value or None


def _intrinsic(arguments: Sequence[str], define: Callable[..., tuple[Any, Emit]]) -> Any:
    """Make an intrinsic; ``define(*types)`` returns its signature and code for given argument types."""

    def typing(*kinds: Any) -> Any:
        signature, emit = define(*kinds)

        def codegen(context: Any, builder: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            result = emit(builder, *values)
            return context.get_dummy_value() if result is None else result

        return signature, codegen

    scope: dict[str, Any] = {"typing": typing}
    names = ", ".join(arguments)
    exec(f"def function(typingctx, {names}):\n    return typing({names})", scope)
    return extending.intrinsic(prefer_literal=True)(scope["function"])


def _of_integers(returns: Any) -> Callable[[Emit], Any]:
    """Make an intrinsic of 64-bit integers from its code."""

    def decorate(emit: Emit) -> Any:
        names = list(inspect.signature(emit).parameters)[1:]
        return _intrinsic(names, lambda *_: (returns(*[types.int64] * len(names)), emit))

    return decorate


@_of_integers(types.int64)
def load(builder: ir.IRBuilder, address: ir.Value, i: ir.Value) -> ir.Value:
    """Load integer i of the array at an address."""
    return builder.load(builder.gep(builder.inttoptr(address, I64.as_pointer()), [i]))


@_of_integers(types.void)
def store(builder: ir.IRBuilder, address: ir.Value, i: ir.Value, value: ir.Value) -> None:
    """Store integer i of the array at an address."""
    builder.store(value, builder.gep(builder.inttoptr(address, I64.as_pointer()), [i]))


def _field(builder: ir.IRBuilder, record: Any, pointer: ir.Value, name: str) -> ir.Value:
    """Return a pointer to a field of a record."""
    at = builder.add(builder.ptrtoint(pointer, I64), I64(record.offset(name)))
    return builder.inttoptr(at, I64.as_pointer())


def _record(builder: ir.IRBuilder, record: Any, address: ir.Value) -> ir.Value:
    """Return the record at an address, for Numba a pointer to its bytes."""
    return builder.inttoptr(address, ir.ArrayType(ir.IntType(8), record.size).as_pointer())


def record_at(dtype: np.dtype) -> Any:
    """Return a function that maps an address to the record there."""
    record = from_dtype(dtype)
    return _intrinsic(["address"], lambda _: (record(types.int64), lambda builder, at: _record(builder, record, at)))


def item_of(dtype: np.dtype, name: str, items: np.dtype) -> Any:
    """Return a function (record, i) -> item i of the list whose offset from the record is in field `name`."""
    owner, item = from_dtype(dtype), from_dtype(items)

    def emit(builder: ir.IRBuilder, record: ir.Value, i: ir.Value) -> ir.Value:
        first = builder.add(builder.ptrtoint(record, I64), builder.load(_field(builder, owner, record, name)))
        return _record(builder, item, builder.add(first, builder.mul(i, I64(items.itemsize))))

    return _intrinsic(["record", "i"], lambda *_: (item(owner, types.int64), emit))


def _of_field(emit: Emit) -> Any:
    """Make an intrinsic of a record and a field name from code that takes a pointer to the field."""
    names = list(inspect.signature(emit).parameters)[2:]

    def define(record: Any, name: Any, *_: Any) -> Any:
        def on_record(builder: ir.IRBuilder, pointer: ir.Value, _: Any, *values: ir.Value) -> Any:
            return emit(builder, _field(builder, record, pointer, name.literal_value), *values)

        return types.int64(record, name, *[types.int64] * len(names)), on_record

    return _intrinsic(["record", "name", *names], define)


@_of_field
def atomic_load(builder: ir.IRBuilder, field: ir.Value) -> ir.Value:
    """Load a field atomically."""
    return builder.load_atomic(field, "seq_cst", 8)


@_of_field
def atomic_claim(builder: ir.IRBuilder, field: ir.Value, value: ir.Value) -> ir.Value:
    """Increment a field atomically if it has this value; return the previous value."""
    more = builder.add(value, I64(1))
    return builder.extract_value(builder.cmpxchg(field, value, more, "seq_cst", "seq_cst"), 0)


@_of_field
def atomic_exchange(builder: ir.IRBuilder, field: ir.Value, value: ir.Value) -> ir.Value:
    """Set a field atomically; return the previous value."""
    return builder.atomic_rmw("xchg", field, value, "seq_cst")


def _call(builder: ir.IRBuilder, address: ir.Value, returns: ir.Type, values: Sequence[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(returns, [value.type for value in values])
    return builder.call(builder.inttoptr(address, kind.as_pointer()), values)


def _caller(arguments: Sequence[str]) -> Any:
    """Return a function that calls an address with these arguments, by position or keyword."""

    def emit(builder: ir.IRBuilder, function: ir.Value, *values: ir.Value) -> None:
        _call(builder, function, ir.VoidType(), values)

    return _intrinsic(["function", *arguments], lambda *_: (types.void(*[types.int64] * (len(arguments) + 1)), emit))


call_product = _caller(leaves.PRODUCT)
call_direct = _caller(leaves.DIRECT)
call_narrow = _caller(leaves.NARROW)
call_copy = _caller(leaves.COPY)
call_copy_rows = _caller(leaves.COPY_ROWS)
call_transpose = _caller(leaves.TRANSPOSE)
call_add_rows = _caller(leaves.ADD_ROWS)
call_kernel = _caller(leaves.KERNEL)
call_elementwise = _caller(leaves.ELEMENTWISE)
call_loss = _caller(leaves.LOSS)
call_mask = _caller(leaves.MASK)


@_of_integers(types.void)
def call_job(
    builder: ir.IRBuilder, function: ir.Value, section: ir.Value, me: ir.Value, n: ir.Value, descriptor: ir.Value
) -> None:
    """Call a function compiled by Numba."""
    # Numba passes pointers for the result and the exception first; the job sets neither. One slot serves both.
    nothing = cgutils.alloca_once(builder, I64)  # type: ignore[no-untyped-call,unused-ignore]
    _call(builder, function, I32, [nothing, nothing, section, me, n, descriptor])


@_of_integers(types.void)
def acquire_lock(builder: ir.IRBuilder, function: ir.Value, lock: ir.Value) -> None:
    """Call ``PyThread_acquire_lock``, and wait for the lock."""
    _call(builder, function, I32, [lock, I32(1)])


@_of_integers(types.int64)
def try_lock(builder: ir.IRBuilder, function: ir.Value, lock: ir.Value) -> ir.Value:
    """Call ``PyThread_acquire_lock`` without waiting; return whether the lock has been acquired."""
    return builder.zext(_call(builder, function, I32, [lock, I32(0)]), I64)


@_of_integers(types.void)
def release_lock(builder: ir.IRBuilder, function: ir.Value, lock: ir.Value) -> None:
    """Call ``PyThread_release_lock``."""
    _call(builder, function, ir.VoidType(), [lock])


@_of_integers(types.void)
def yield_to(builder: ir.IRBuilder, function: ir.Value) -> None:
    """Call the system's yield function."""
    _call(builder, function, ir.VoidType(), [])


def _prefetch(builder: ir.IRBuilder, address: ir.Value, writes: int) -> None:
    byte = ir.IntType(8).as_pointer()
    function = declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [byte, I32, I32, I32])
    builder.call(function, [builder.inttoptr(address, byte), I32(writes), I32(3), I32(1)])


@_of_integers(types.void)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Emit a prefetch of a cache line, to be read."""
    _prefetch(builder, address, 0)


@_of_integers(types.void)
def prefetch_to_write(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Emit a prefetch of a cache line that this thread is going to write to, so that no other one holds it."""
    _prefetch(builder, address, 1)


@_of_integers(types.void)
def fence(builder: ir.IRBuilder) -> None:
    """Order all loads and stores before and after, also stores that bypass the cache."""
    builder.fence("seq_cst")


@_of_integers(types.void)
def pause(builder: ir.IRBuilder) -> None:
    """Emit the CPU's spin-loop hint."""
    processor = binding.get_process_triple().split("-")[0]
    if processor in ("x86_64", "i686"):
        name, values = "llvm.x86.sse2.pause", []
    elif processor in ("aarch64", "arm64"):
        name, values = "llvm.aarch64.hint", [I32(1)]
    else:
        return
    builder.call(declare(builder.module, name, ir.VoidType(), [value.type for value in values]), values)
