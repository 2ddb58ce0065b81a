"""Sine and cosine on vectors of float64, for arguments of any size.

An argument x >= 0 is reduced to r = x - n pi / 2, at most pi / 4 in size, whose sine and cosine are Taylor series.

- Up to `FAST_LIMIT`, n is so short that its products with the first three parts of pi / 2 are exact (Cody and Waite).
- If a lane holds more, a branch that is rarely taken multiplies each lane's mantissa by those 192 bits of 2 / pi that
  matter for it, in integers (Payne and Hanek). No float64 is closer to a multiple of pi / 2 than that can resolve.
"""

import math
from fractions import Fraction
from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen.ir import I1, I32, I64, declare
from rnnx.engines.cpu.codegen.vectors import Vector, horner

FAST_LIMIT = 1.5 * 2.0**20
I128 = ir.IntType(128)
TABLE_WORDS = 21  # 64 zeros, and 1280 bits of 2 / pi


def _pi(bits: int) -> int:
    """Return pi * 2^bits, rounded down up to an error in the last bits (Machin's formula)."""

    def arctan_of_inverse(k: int) -> int:
        term = total = (1 << bits + 32) // k
        for i in range(3, bits + 32, 2):
            term //= -k * k
            total += term // i
        return total

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239)) >> 32


def _parts_of_half_pi() -> list[float]:
    """Return pi / 2 as three numbers of 33 bits and the remainder."""
    parts, rest = [], Fraction(_pi(400), 2**401)
    for bits in (32, 65, 98):
        part = Fraction(int(rest * 2**bits), 2**bits)
        parts.append(float(part))
        rest -= part
    return [*parts, float(rest)]


HALF_PI = _parts_of_half_pi()


class Trigonometry:
    """sin and cos by series of a number of terms, on vectors of float64."""

    def __init__(self, terms: int) -> None:
        self.sines = [(-1) ** k / math.factorial(2 * k + 1) for k in range(1, terms)]
        self.cosines = [(-1) ** k / math.factorial(2 * k) for k in range(2, terms + 1)]

    def sin(self, x: Vector) -> Vector:
        """Return the sine."""
        one = Vector(x.function, x.function.constant(1))
        return self.at(*reduce(abs(x))) * one.copysign(x)

    def cos(self, x: Vector) -> Vector:
        """Return the cosine."""
        n, r = reduce(abs(x))
        return self.at(n + 1, r)

    def at(self, n: Vector, r: Vector) -> Vector:
        """Return sin(r + n pi / 2)."""
        w = r * r
        sine = r + (r * w) * horner(self.sines, w)
        cosine = 1 - (0.5 * w - (w * w) * horner(self.cosines, w))
        chosen = (n & 1).where("==", 0, sine, cosine)
        return (chosen.as_integer() ^ ((n & 2) << 62)).as_real()


def reduce(x: Vector) -> tuple[Vector, Vector]:
    """Return the integer n, at least its lowest two bits, and r = x - n pi / 2, for x >= 0."""
    f, magic = x.function, 1.5 * 2.0**52  # rounds to integers, which are then in the low bits
    shifted = x * (2 / math.pi) + magic
    n, r = shifted - magic, x
    for part in HALF_PI:
        r = r - n * part
    huge = f.build.fcmp_ordered(">", x.value, f.constant(FAST_LIMIT))
    any_huge = f.build.icmp_unsigned("!=", f.build.bitcast(huge, ir.IntType(f.lanes)), ir.IntType(f.lanes)(0))
    fast, before = (shifted.as_integer(), r), f.build.block
    with f.build.if_then(any_huge, likely=False):
        slow = _reduce_lanes(x)
        slow = (slow[0], slow[1] + (x - x))  # NaN for infinity
        chosen = [f.build.select(huge, s.value, q.value) for s, q in zip(slow, fast, strict=True)]
        within = f.build.block
    results = []
    for value, quick in zip(chosen, fast, strict=True):
        phi = f.build.phi(value.type)
        phi.add_incoming(quick.value, before)
        phi.add_incoming(value, within)
        results.append(Vector(f, phi))
    return results[0], results[1]


def _reduce_lanes(x: Vector) -> tuple[Vector, Vector]:
    f, build = x.function, x.function.build
    n = ir.Constant(ir.VectorType(I64, f.lanes), ir.Undefined)
    r = ir.Constant(f.vector, ir.Undefined)
    for i in range(f.lanes):
        pair = build.call(_scalar_reduce(f.module), [build.extract_element(x.value, I32(i))])
        n = build.insert_element(n, build.extract_value(pair, 0), I32(i))
        r = build.insert_element(r, build.extract_value(pair, 1), I32(i))
    return Vector(f, n), Vector(f, r)


def _scalar_reduce(module: ir.Module) -> Any:
    """Return the function x -> (n, r) for one number of at least `FAST_LIMIT`; its result for others is arbitrary."""
    name, real = "reduce_huge", ir.DoubleType()
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.LiteralStructType([I64, real]), [real]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    # x = mantissa * 2^s
    bits = b.bitcast(function.args[0], I64)
    exponent = b.and_(b.lshr(bits, I64(52)), I64(0x7FF))
    s = b.sub(b.select(b.icmp_signed("<", exponent, I64(1043)), I64(1043), exponent), I64(1075))
    mantissa = b.or_(b.and_(bits, I64(2**52 - 1)), I64(2**52))
    # times 2 / pi * 2^s modulo 4: the upper 128 bits, of which two are the integer part
    high, middle, low = _window(module, b, s)
    m = b.zext(mantissa, I128)
    carried = b.add(b.mul(m, b.zext(middle, I128)), b.lshr(b.mul(m, b.zext(low, I128)), I128(64)))
    product = b.add(b.shl(b.zext(b.mul(mantissa, high), I128), I128(64)), carried)
    n = b.lshr(b.add(product, I128(1 << 125)), I128(126))
    r = _as_real(module, b, b.sub(product, b.shl(n, I128(126))))
    pair = b.insert_value(ir.Constant(function.ftype.return_type, ir.Undefined), b.trunc(n, I64), 0)
    b.ret(b.insert_value(pair, b.fmul(r, real(math.pi / 2)), 1))
    return function


def _window(module: ir.Module, b: ir.IRBuilder, s: ir.Value) -> list[ir.Value]:
    """Return 2 / pi * 2^s modulo 4 in three words of 64 bits, the highest first."""
    start = b.add(s, I64(62))
    word, shift = b.lshr(start, I64(6)), b.and_(start, I64(63))
    table = _table(module)
    words = [b.load(b.gep(table, [I64(0), b.add(word, I64(k))])) for k in range(4)]
    funnel = declare(module, "llvm.fshl.i64", I64, [I64] * 3)
    return [b.call(funnel, [words[k], words[k + 1], shift]) for k in range(3)]


def _as_real(module: ir.Module, b: ir.IRBuilder, fraction: ir.Value) -> ir.Value:
    """Convert a signed integer of 128 bits, divided by 2^126, without the C library."""
    real = ir.DoubleType()
    negative = b.icmp_signed("<", fraction, I128(0))
    size = b.select(negative, b.neg(fraction), fraction)
    count = declare(module, "llvm.ctlz.i64", I64, [I64, I1])
    zeros = b.call(count, [b.trunc(b.lshr(size, I128(64)), I64), I1(0)])
    leading = b.trunc(b.lshr(b.shl(size, b.zext(zeros, I128)), I128(65)), I64)
    scale = b.bitcast(b.shl(b.sub(I64(1023 - 61), zeros), I64(52)), real)
    r = b.fmul(b.sitofp(leading, real), scale)
    return b.select(negative, b.fneg(r), r)


def _table(module: ir.Module) -> ir.GlobalVariable:
    """Return 64 zeros and the bits of 2 / pi, in words, the highest first."""
    bits = 64 * (TABLE_WORDS - 1)
    number = (1 << (2 * bits + 65)) // _pi(bits + 64)
    words = [(number >> (bits - 64 * k)) & (2**64 - 1) for k in range(TABLE_WORDS)]
    kind = ir.ArrayType(I64, TABLE_WORDS)
    table = ir.GlobalVariable(module, kind, "two_over_pi")
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(kind, [I64(word - (word >> 63 << 64)) for word in words])
    return table
