"""A kernel that draws the masks of dropout, with the bits of NumPy's generator Philox.

J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: four 64-bit words are a function of a key and
a counter. NumPy increases the first word of the counter before every block of four, and splits words into 32-bit
halves, the low one first, whose high 24 bits are a number from 0 to 1.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function

_NUMBERS = 8  # per block
_ROUNDS = 10
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_INCREMENTS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # of the key from round to round
_WIDE, _DOUBLE = ir.IntType(128), ir.DoubleType()


def emit_masks(module: ir.Module, dtype: Any) -> None:
    """Emit mask, with the arguments declared in `leaves`."""
    f = Function(module, "mask", leaves.MASK, dtype, public=True)
    a, build = f.arguments, f.build
    kind = ir.VectorType(f.real, _NUMBERS)
    number, zero = f.load(a.value, _DOUBLE), ir.Constant(kind, [0.0] * _NUMBERS)
    value = _spread(f, number if f.itemsize == 8 else build.fptrunc(number, f.real))
    least = _spread(f, build.trunc(a.least, I32))
    key = [f.load(f.sum(a.key, 8 * k), I64) for k in range(2)]
    with f.loop(a.steps) as t:
        row = f.sum(a.target, f.times(f.times(t, a.size), f.itemsize))
        with f.loop(a.size, step=_NUMBERS) as i:
            block = build.sdiv(i, I64(_NUMBERS))
            words = _philox(f, key, [f.sum(block, 1), I64(0), I64(0), f.sum(a.start, t)])
            is_kept = build.icmp_unsigned(">=", _halves(f, words), least)
            mask = build.select(is_kept, value, zero)
            target, n_left = f.sum(row, f.times(i, f.itemsize)), build.sub(a.size, i)
            is_whole = build.zext(f.less(I64(_NUMBERS - 1), n_left), I64)
            with f.loop(is_whole):
                build.store(mask, f.pointer(target, kind)).align = f.itemsize
            with f.loop(build.select(f.less(I64(0), is_whole), I64(0), n_left)) as k:
                place = f.pointer(f.sum(target, f.times(k, f.itemsize)), f.real)
                build.store(build.extract_element(mask, build.trunc(k, I32)), place)
    f.end()


def _philox(f: Function, key: list[ir.Value], counter: list[ir.Value]) -> list[ir.Value]:
    """Return the four words of a counter."""
    build = f.build
    for _ in range(_ROUNDS):
        products = [
            build.mul(build.zext(word, _WIDE), ir.Constant(_WIDE, factor))
            for word, factor in zip(counter[::2], _MULTIPLIERS, strict=True)
        ]
        low = [build.trunc(product, I64) for product in products]
        high = [build.trunc(build.lshr(product, ir.Constant(_WIDE, 64)), I64) for product in products]
        first = build.xor(build.xor(high[1], counter[1]), key[0])
        third = build.xor(build.xor(high[0], counter[3]), key[1])
        counter = [first, low[1], third, low[0]]
        key = [build.add(word, ir.Constant(I64, more)) for word, more in zip(key, _INCREMENTS, strict=True)]
    return counter


def _halves(f: Function, words: list[ir.Value]) -> ir.Value:
    """Return the high 24 bits of the eight halves of four words."""
    halves: ir.Value = ir.Constant(ir.VectorType(I32, _NUMBERS), ir.Undefined)
    for k in range(_NUMBERS):
        half = f.build.lshr(words[k // 2], I64(8 + 32 * (k % 2)))
        half = f.build.and_(f.build.trunc(half, I32), I32((1 << 24) - 1))
        halves = f.build.insert_element(halves, half, I32(k))
    return halves


def _spread(f: Function, value: ir.Value) -> ir.Value:
    """Broadcast a value to all numbers of a block."""
    kind = ir.VectorType(value.type, _NUMBERS)
    first = f.build.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, _NUMBERS), [0] * _NUMBERS)
    return f.build.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)
