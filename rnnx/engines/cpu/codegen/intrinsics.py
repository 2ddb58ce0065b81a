"""What the compiled loops need and Numba does not have: memory by address, calls by address, atomics."""

from typing import Any

from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils

from rnnx.engines.cpu.codegen.ir import I64

intrinsic: Any = extending.intrinsic  # its own annotations count the typing context among the arguments
_BYTE = ir.IntType(8).as_pointer()


def _place(builder: ir.IRBuilder, p: ir.Value, i: ir.Value) -> ir.Value:
    return builder.gep(builder.inttoptr(p, I64.as_pointer()), [i])


@intrinsic
def get(typingctx, p, i):
    """Integer i of the list at p."""

    def codegen(context, builder, signature, args):
        return builder.load(_place(builder, *args))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def put(typingctx, p, i, value):
    """Set integer i of the list at p."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _place(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def atomic_get(typingctx, p, i):
    """As `get`, in order with other threads."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_place(builder, *args), "seq_cst", 8)

    return types.int64(types.int64, types.int64), codegen


def _read_modify_write(operation: str) -> Any:
    @intrinsic
    def change(typingctx, p, i, value):
        def codegen(context, builder, signature, args):
            return builder.atomic_rmw(operation, _place(builder, *args[:2]), args[2], "seq_cst")

        return types.int64(types.int64, types.int64, types.int64), codegen

    return change


add_at = _read_modify_write("add")  # adds to integer i of the list at p; returns what it was
exchange = _read_modify_write("xchg")  # sets it; returns what it was


_X86, _ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (ir.Constant(ir.IntType(32), 1),))
_PAUSES: dict[str, tuple[str, tuple[ir.Constant, ...]]] = {"x86_64": _X86, "i686": _X86, "aarch64": _ARM, "arm64": _ARM}


@intrinsic
def pause(typingctx):
    """Tell the CPU that this thread waits in a loop."""
    processor = binding.get_process_triple().split("-")[0]
    name, arguments = _PAUSES.get(processor, (None, ()))

    def codegen(context, builder, signature, args):
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


def _caller(n: int, job: bool = False) -> Any:
    """A function that calls the function at an address with n integers."""
    names = ", ".join(f"a{i}" for i in range(n))

    def codegen(context, builder, signature, args):
        integers = [I64] * n
        if job:  # compiled by Numba: first the places for a result and for an exception, which it does not use
            nothing = cgutils.alloca_once(builder, I64)  # once in a function, not once in a loop
            kind = ir.FunctionType(ir.IntType(32), [_BYTE, _BYTE, *integers])
            given = [builder.bitcast(nothing, _BYTE)] * 2 + list(args[1:])
        else:
            kind, given = ir.FunctionType(ir.VoidType(), integers), list(args[1:])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    scope: dict[str, Any] = {"types": types, "codegen": codegen}
    signature = ", ".join(["types.int64"] * (n + 1))
    exec(f"def call(typingctx, address, {names}):\n    return types.void({signature}), codegen", scope)
    return intrinsic(scope["call"])


call3, call5, call6, call7, call14 = (_caller(n) for n in (3, 5, 6, 7, 14))
call_job = _caller(3, job=True)


@intrinsic
def call_system(typingctx, address, descriptor, buffer, count):
    """``read`` or ``write`` of the C library, at its address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(I64, [ir.IntType(32), I64, I64])
        given = [builder.trunc(args[1], ir.IntType(32)), args[2], args[3]]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def yield_to(typingctx, address):
    """Let other threads run, with the system's function at this address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
