"""Moving blocks of numbers: transposing, copying, zeroing, adding up rows. The leaves of packing and unpacking.

Counts are in vectors; ``tail`` says how many numbers the last vector of a row holds (0: all). All strides and
addresses are in bytes. L is the number of lanes of a vector.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen.ir import I32, I64, Function


def emit_moves(module: ir.Module, dtype: Any) -> None:
    """All functions of this file."""
    for masked in (False, True):
        _transpose(module, dtype, masked)
        _copy(module, dtype, masked)
    _add_rows(module, dtype)


def _transpose(module: ir.Module, dtype: Any, masked: bool) -> None:
    """The function transpose(src, lds, count, n, dst, ldd): dst[k, r] = src[r, k] for r < count <= L, k < n.

    Rows of dst are written as whole vectors, the rest with copies; by transpose_masked only their first `count`.
    """
    names = ("src", "lds", "count", "n", "dst", "ldd")
    f = Function(module, "transpose_masked" if masked else "transpose", names, dtype, public=True)
    src, lds, count, n, dst, ldd = f.arguments
    last = f.sum(count, -1)
    rows = [f.sum(src, f.times(lds, f.least(r, last))) for r in range(f.lanes)]
    mask = f.first_lanes(count) if masked else None
    whole = f.build.sub(n, f.build.srem(n, I64(f.lanes)))
    with f.loop(whole, step=f.lanes) as k:
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize))) for row in rows]
        for i, vector in enumerate(_transposed(f, block)):
            f.store_vector(vector, f.sum(dst, f.times(f.sum(k, i), ldd)), mask)
    # What is left over, by way of a square on the stack.
    square = f.build.ptrtoint(f.build.alloca(f.vector, f.lanes), I64)
    with f.loop(n, whole, f.lanes) as k:
        there = f.first_lanes(f.build.sub(n, k))
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize)), there) for row in rows]
        for i, vector in enumerate(_transposed(f, block)):
            f.store_vector(vector, f.sum(square, i * f.lanes * f.itemsize))
        with f.loop(f.build.sub(n, k)) as i:
            vector = f.load_vector(f.sum(square, f.times(i, f.lanes * f.itemsize)))
            f.store_vector(vector, f.sum(dst, f.times(f.sum(k, i), ldd)), mask)
    f.end()


def _transposed(f: Function, block: list[ir.Value]) -> list[ir.Value]:
    """A square of L vectors: swap the off-diagonal quarters of ever smaller squares in it."""
    block, distance, kind = list(block), f.lanes // 2, ir.VectorType(I32, f.lanes)
    while distance:
        low = [i if not i & distance else f.lanes + i - distance for i in range(f.lanes)]
        high = [i + distance if not i & distance else f.lanes + i for i in range(f.lanes)]
        for i in range(f.lanes):
            if not i & distance:
                a, b = block[i], block[i + distance]
                block[i] = f.build.shuffle_vector(a, b, ir.Constant(kind, low))
                block[i + distance] = f.build.shuffle_vector(a, b, ir.Constant(kind, high))
        distance //= 2
    return block


def _copy(module: ir.Module, dtype: Any, masked: bool) -> None:
    """The function copy(src, lds, rows, vectors, tail, dst, ldd): rows of dst are whole vectors, padded with zeros;
    copy_masked writes the numbers of the row only.
    """
    names = ("src", "lds", "rows", "vectors", "tail", "dst", "ldd")
    f = Function(module, "copy_masked" if masked else "copy", names, dtype, public=True)
    src, lds, rows, vectors, tail, dst, ldd = f.arguments
    size, mask = f.lanes * f.itemsize, f.first_lanes(tail)
    ragged = f.build.zext(f.less(I64(0), tail), I64)
    whole = f.build.sub(vectors, ragged)
    with f.loop(rows) as r:
        source, target = f.sum(src, f.times(r, lds)), f.sum(dst, f.times(r, ldd))
        with f.loop(whole) as v:
            f.store_vector(f.load_vector(f.sum(source, f.times(v, size))), f.sum(target, f.times(v, size)))
        with f.loop(vectors, whole) as v:
            vector = f.load_vector(f.sum(source, f.times(v, size)), mask)
            f.store_vector(vector, f.sum(target, f.times(v, size)), mask if masked else None)
    f.end()


def _add_rows(module: ir.Module, dtype: Any) -> None:
    """The function add_rows(src, lds, rows, vectors, sums): sums += the sum of the rows, all of whole vectors."""
    f = Function(module, "add_rows", ("src", "lds", "rows", "vectors", "sums"), dtype, public=True)
    src, lds, rows, vectors, sums = f.arguments
    size = f.lanes * f.itemsize
    with f.loop(vectors) as v:
        column, place = f.sum(src, f.times(v, size)), f.sum(sums, f.times(v, size))
        before = f.build.block
        first = ir.Constant(f.vector, [0.0] * f.lanes)
        head, body, done = (f.ir.append_basic_block(name) for name in ("head", "body", "done"))
        f.build.branch(head)
        f.build.position_at_end(head)
        r, total = f.build.phi(I64), f.build.phi(f.vector)
        r.add_incoming(I64(0), before)
        total.add_incoming(first, before)
        f.build.cbranch(f.less(r, rows), body, done)
        f.build.position_at_end(body)
        more = f.build.fadd(total, f.load_vector(f.sum(column, f.times(r, lds))))
        r.add_incoming(f.sum(r, 1), body)
        total.add_incoming(more, body)
        f.build.branch(head)
        f.build.position_at_end(done)
        f.store_vector(f.build.fadd(f.load_vector(place), total), place)
    f.end()
