"""Small formats of packed float32 weights, which the micro-kernels expand to float32 in registers.

A format may store several terms of a sum, consecutive k, in one word of a vector, and may begin each micro-panel of a
block of k with one scale per column, a row of float32 vectors; the sum over the block is then multiplied by it.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I64, Function, integers, lanes, machine


class Format(NamedTuple):
    """How weights are stored in micro-panels: bytes of a weight, terms in a word, and whether there are scales."""

    item: int
    terms: int
    scaled: bool
    unroll: int  # terms per iteration of a micro-kernel, a multiple of those in a word


FORMATS = {"bfloat16": Format(2, 2, False, 2), "int8": Format(1, 1, True, 4)}

_HIGH = -(1 << 16)  # mask of the high half of a word
_LEAST_SCALE = 2.0**-126  # the smallest normal number
_SCALE_BITS = 0x7F  # the low bits that a scale does not have, so that multiples of it up to 127 are exact


def format_of(dtype: Any, weights: str) -> Format:
    """Return the format of weights by name; by default, they are numbers of the dtype."""
    return FORMATS[weights] if weights else Format(np.dtype(dtype).itemsize, 1, False, 2)


def packed_bytes(dtype: Any, weights: str, n_k: int, vectors: int, block: int) -> int:
    """Return the bytes of packed weights, n_k rows by so many vectors of columns, in blocks of `block` rows."""
    form = format_of(dtype, weights)
    rows = -(-n_k // form.terms) * form.terms
    scales = -(-n_k // block) * machine().vector_bytes if form.scaled else 0
    return vectors * (rows * form.item * lanes(dtype) + scales)


def panel_offset(f: Function, form: Format, block: int, k0: ir.Value, k: ir.Value, v: ir.Value, n: ir.Value) -> Any:
    """Return the offset of the micro-panel that begins at vector v of n, in the block of k rows that begins at k0."""
    row, size = f.lanes * form.item, f.lanes * f.itemsize
    before, here = f.times(k0, row), f.times(k, row)
    if form.terms > 1:  # the last word may be incomplete
        whole = f.build.and_(f.sum(k, form.terms - 1), I64(-form.terms))
        here = f.times(whole, row)
    if form.scaled:
        before = f.sum(before, f.times(f.build.sdiv(k0, I64(block)), size))
        here = f.sum(here, size)
    return f.sum(f.times(before, n), f.times(here, v))


def _integers(f: Function) -> ir.Type:
    return ir.VectorType(ir.IntType(32), f.lanes)


def _same(kind: Any, value: int) -> ir.Constant:
    return integers(kind.element, *[value] * kind.count)


def expanded(f: Function, form: Format, at: ir.Value, mask: ir.Value | None = None) -> list[ir.Value]:
    """Load a vector of words; return the weights of each of its terms, as vectors of numbers (unscaled).

    `mask`: of the numbers to load, if they are no words.
    """
    if form.item == f.itemsize:
        return [f.load_vector(at, mask)]
    if form.scaled:
        numbers = f.build.load(f.pointer(at, ir.VectorType(ir.IntType(8), f.lanes)))
        numbers.align = 1
        return [f.build.sitofp(f.build.sext(numbers, _integers(f)), f.vector)]
    words = f.build.bitcast(f.load_vector(at), _integers(f))
    low = f.build.shl(words, _same(words.type, 16))
    return [f.build.bitcast(half, f.vector) for half in (low, f.build.and_(words, _same(words.type, _HIGH)))]


def _rounded_bits(f: Function, value: ir.Value) -> ir.Value:
    """Return the bits of numbers rounded to bfloat16, to nearest even, in the high halves of words."""
    bits = f.build.bitcast(value, _integers(f))
    odd = f.build.and_(f.build.lshr(bits, _same(bits.type, 16)), _same(bits.type, 1))
    up = f.build.add(f.build.add(bits, odd), _same(bits.type, 0x7FFF))
    quiet = f.build.or_(bits, _same(bits.type, 1 << 22))  # a NaN must not become infinity
    is_nan = f.build.fcmp_unordered("uno", value, value)
    return f.build.and_(f.build.select(is_nan, quiet, up), _same(bits.type, _HIGH))


def _scales(f: Function, source: ir.Value, n_k: ir.Value) -> ir.Value:
    """Return one scale per column of n_k rows of a vector: the largest magnitude over 127, rounded up to 17 bits."""
    largest = [f.constant(0)]
    with f.loop(n_k, carried=largest) as k:
        magnitude = f.intrinsic("fabs", f.load_vector(f.sum(source, f.times(k, f.lanes * f.itemsize))))
        more = f.build.fcmp_ordered(">", magnitude, largest[0])
        largest[0] = f.build.select(more, magnitude, largest[0])
    bits = f.build.bitcast(f.build.fdiv(largest[0], f.constant(127)), _integers(f))
    up = f.build.add(bits, _same(bits.type, _SCALE_BITS))
    scale = f.build.bitcast(f.build.and_(up, _same(bits.type, ~_SCALE_BITS)), f.vector)
    is_normal = f.build.fcmp_ordered(">", scale, f.constant(_LEAST_SCALE))
    return f.build.select(is_normal, scale, f.constant(_LEAST_SCALE))


def _multiple(f: Function, value: ir.Value, scale: ir.Value) -> ir.Value:
    """Return the nearest multiples of a scale, as bytes."""
    nearest = f.build.fadd(f.build.fdiv(value, scale), f.constant(1.5 * 2**23))  # the sum's low bits are the integer
    return f.build.trunc(f.build.bitcast(nearest, _integers(f)), ir.VectorType(ir.IntType(8), f.lanes))


def emit_narrow(module: ir.Module, dtype: Any, weights: str, block: int) -> None:
    """Emit narrow, which packs a vector of columns, with the arguments declared in `leaves`."""
    form = FORMATS[weights]
    f = Function(module, "narrow", leaves.NARROW, dtype, public=True)
    a, size, width = f.arguments, f.lanes * f.itemsize, f.lanes * form.item * form.terms
    scale = _scales(f, a.source, a.n_k) if form.scaled else None
    place = f.build.sub(a.v, a.panel)
    with f.loop(a.n_k, step=block) as k0:
        k = f.least(block, f.build.sub(a.n_k, k0))
        panel = f.sum(a.packed, panel_offset(f, form, block, k0, k, a.panel, a.n_vectors))
        if scale is not None:
            f.store_vector(scale, f.sum(panel, f.times(place, size)))
            panel = f.sum(panel, f.times(a.vectors, size))
        column, row = f.sum(panel, f.times(place, width)), f.times(a.vectors, f.lanes * form.item)
        with f.loop(k, step=form.terms) as i:
            source = f.sum(a.source, f.times(f.sum(k0, i), size))
            values = [f.load_vector(f.sum(source, term * size)) for term in range(form.terms)]
            if scale is not None:
                word = _multiple(f, values[0], scale)
            else:
                low, high = (_rounded_bits(f, value) for value in values)
                word = f.build.or_(f.build.lshr(low, _same(low.type, 16)), high)
            f.build.store(word, f.pointer(f.sum(column, f.times(i, row)), word.type)).align = 1
    f.end()
