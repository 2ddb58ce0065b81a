"""What Python calls directly: functions that read its objects themselves, so that one argument is enough.

They take a tuple of NumPy's arrays. Its items and the fields of an array are at offsets that `runtime.objects` knows.
`enter_held` and `kinds` are methods of an object, as functions written in C are: they take that object, too, an array
of the addresses `OWN`, and return a new reference.
"""

from typing import Any, NamedTuple

from llvmlite import ir

from rnnx.engines.cpu.codegen.ir import I64, Function
from rnnx.engines.cpu.runtime.buffer_pool import LINE

_BYTE, _HALF = ir.IntType(8), ir.IntType(32)
_LAST_NUMBER, _HALF_PRECISION = 16, 23  # NumPy's numbers of dtypes: bool to complex, and float16
OWN = ("array_type", "tuple_type", "make_bytes", "make_bool")  # types, and functions of Python's C API


class Offsets(NamedTuple):
    """Where objects of CPython and NumPy have their fields, in bytes."""

    length: int = 16  # of a tuple
    items: int = 24
    type: int = 8
    data: int = 16  # of an array
    n_dims: int = 24
    shape: int = 32
    strides: int = 40
    dtype: int = 56
    flags: int = 64
    byte_order: int = 26  # of a dtype
    number: int = 28
    content: int = 32  # of bytes


def emit_entry(module: ir.Module, dtype: Any, *offsets: int) -> None:
    """Emit the functions `enter`, `enter_held`, `kinds` and `addresses`."""
    at = Offsets(*offsets)
    f = Function(module, "enter", ("objects",), dtype, public=True)
    _run(f, at)
    f.end()
    f = Function(module, "enter_held", ("own", "objects"), dtype, public=True, returns=I64)
    _run(f, at)
    make = f.pointer(_own(f, at)["make_bool"], ir.FunctionType(I64, [I64]))
    f.end(f.build.call(make, [I64(1)]))
    _kinds(module, dtype, at)
    _addresses(module, dtype, at)


def _run(f: Function, at: Offsets) -> None:
    """Emit, for (record, workspace, *arrays), the call of a function of (arrays, record, place).

    The record begins with the address of that function; the place is the workspace's first whole cache line.
    """
    items = f.sum(f.arguments.objects, at.items)
    record, workspace = (f.load(f.sum(f.load(f.sum(items, 8 * k), I64), at.data), I64) for k in (0, 1))
    place = f.build.and_(f.sum(workspace, LINE - 1), I64(-LINE))
    f.call_compiled(f.load(record, I64), f.sum(items, 16), record, place)


def _own(f: Function, at: Offsets) -> dict[str, ir.Value]:
    """Return the addresses in the object of which the function is a method."""
    table = f.load(f.sum(f.arguments.own, at.data), I64)
    return {name: f.load(f.sum(table, 8 * k), I64) for k, name in enumerate(OWN)}


def _kinds(module: ir.Module, dtype: Any, at: Offsets) -> None:
    """Emit a function of arrays: return bytes with their dtypes, shapes, strides and flags.

    The result is empty if they are not in a tuple, an object is not exactly of the type of arrays, or its dtype not a
    number.
    """
    f = Function(module, "kinds", ("own", "objects"), dtype, public=True, returns=I64)
    objects, own = f.arguments.objects, _own(f, at)
    is_tuple = f.build.icmp_signed("==", f.load(f.sum(objects, at.type), I64), own["tuple_type"])
    n = f.build.select(is_tuple, f.load(f.sum(objects, at.length), I64), I64(0))
    items = f.sum(objects, at.items)

    def narrow(address: ir.Value, kind: ir.Type) -> ir.Value:
        return f.build.zext(f.build.load(f.pointer(address, kind)), I64)

    def item(k: ir.Value) -> ir.Value:
        return f.load(f.sum(items, f.times(k, 8)), I64)

    totals = [I64(0), I64(1)]  # bytes, and whether all objects are right
    with f.loop(n, carried=totals) as k:
        size, right = totals
        is_array = f.build.icmp_signed("==", f.load(f.sum(item(k), at.type), I64), own["array_type"])
        array = f.build.select(is_array, item(k), f.arguments.own)
        number = narrow(f.sum(f.load(f.sum(array, at.dtype), I64), at.number), _HALF)
        is_number = f.build.or_(
            f.less(number, _LAST_NUMBER + 1), f.build.icmp_signed("==", number, I64(_HALF_PRECISION))
        )
        totals[1] = f.build.and_(right, f.build.zext(f.build.and_(is_array, is_number), I64))
        totals[0] = f.sum(size, f.times(narrow(f.sum(array, at.n_dims), _HALF), 16), 8)
    size, right = totals
    maker = f.pointer(own["make_bytes"], ir.FunctionType(I64, [I64, I64]))
    made = f.build.call(maker, [I64(0), f.times(size, right)])
    fills = f.build.and_(right, f.build.zext(f.build.icmp_signed("!=", made, I64(0)), I64))
    target = [f.sum(made, at.content)]
    with f.loop(f.times(n, fills), carried=target) as k:
        array = item(k)
        descriptor, n_dims = f.load(f.sum(array, at.dtype), I64), narrow(f.sum(array, at.n_dims), _HALF)
        head = n_dims
        for value, shift in (
            (narrow(f.sum(descriptor, at.number), _HALF), 8),
            (narrow(f.sum(descriptor, at.byte_order), _BYTE), 24),
            (narrow(f.sum(array, at.flags), _HALF), 32),
        ):
            head = f.build.or_(head, f.build.shl(value, I64(shift)))
        f.build.store(head, f.pointer(target[0], I64)).align = 8
        shape, strides = (f.load(f.sum(array, place), I64) for place in (at.shape, at.strides))
        with f.loop(n_dims) as d:
            for i, numbers in enumerate((shape, strides)):
                value = f.load(f.sum(numbers, f.times(d, 8)), I64)
                place = f.sum(target[0], 8 + 8 * i, f.times(d, 16))
                f.build.store(value, f.pointer(place, I64)).align = 8
        target[0] = f.sum(target[0], f.times(n_dims, 16), 8)
    f.end(made)


def _addresses(module: ir.Module, dtype: Any, at: Offsets) -> None:
    """Emit a function of (table, *arrays) and `width`: write the addresses of the arrays to the table of integers,
    `width` in each of its rows, after a first number, which stays.
    """
    f = Function(module, "addresses", ("objects", "width"), dtype, public=True)
    objects = f.arguments.objects
    n, items = f.load(f.sum(objects, at.length), I64), f.sum(objects, at.items)
    table = f.load(f.sum(f.load(items, I64), at.data), I64)
    with f.loop(n, 1) as k:
        array = f.load(f.sum(items, f.times(k, 8)), I64)
        row = f.build.udiv(f.sum(k, -1), f.arguments.width)
        f.build.store(f.load(f.sum(array, at.data), I64), f.pointer(f.sum(table, f.times(f.sum(k, row), 8)), I64))
    f.end()
