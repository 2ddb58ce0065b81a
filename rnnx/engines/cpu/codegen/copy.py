"""Kernels that copy, transpose and sum blocks of numbers, with the arguments declared in `leaves`."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function, integers


def emit_copies(module: ir.Module, dtype: Any) -> None:
    """Emit copy, copy_rows and transpose, which have masked variants, and add_rows."""
    for masked in (False, True):
        _transpose(module, dtype, masked)
        for name, arguments in (("copy", leaves.COPY), ("copy_rows", leaves.COPY_ROWS)):
            _copy(module, name, arguments, dtype, masked)
    _add_rows(module, dtype)


def _transpose(module: ir.Module, dtype: Any, masked: bool) -> None:
    f = Function(module, "transpose_masked" if masked else "transpose", leaves.TRANSPOSE, dtype, public=True)
    a = f.arguments
    last = f.sum(a.count, -1)
    rows = [f.sum(a.source, f.times(a.source_row, f.least(r, last))) for r in range(f.lanes)]
    mask = f.first_lanes(a.count) if masked else None
    whole = f.build.sub(a.n, f.build.srem(a.n, I64(f.lanes)))
    with f.loop(whole, step=f.lanes) as k:
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize))) for row in rows]
        for i, vector in enumerate(transposed(f, block)):
            f.store_vector(vector, f.sum(a.target, f.times(f.sum(k, i), a.target_row)), mask)
    # Transpose the remainder in a square on the stack.
    square = f.build.ptrtoint(f.build.alloca(f.vector, f.lanes), I64)
    with f.loop(a.n, whole, f.lanes) as k:
        there = f.first_lanes(f.build.sub(a.n, k))
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize)), there) for row in rows]
        for i, vector in enumerate(transposed(f, block)):
            f.store_vector(vector, f.sum(square, i * f.lanes * f.itemsize))
        with f.loop(f.build.sub(a.n, k)) as i:
            vector = f.load_vector(f.sum(square, f.times(i, f.lanes * f.itemsize)))
            f.store_vector(vector, f.sum(a.target, f.times(f.sum(k, i), a.target_row)), mask)
    f.end()


def transposed(f: Function, block: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square of L vectors by swapping off-diagonal quarters, recursively; or squares side by side, if there
    are fewer vectors.
    """
    block, distance = list(block), len(block) // 2
    while distance:
        low = [i if not i & distance else f.lanes + i - distance for i in range(f.lanes)]
        high = [i + distance if not i & distance else f.lanes + i for i in range(f.lanes)]
        for i in range(len(block)):
            if not i & distance:
                a, b = block[i], block[i + distance]
                block[i] = f.build.shuffle_vector(a, b, integers(I32, *low))
                block[i + distance] = f.build.shuffle_vector(a, b, integers(I32, *high))
        distance //= 2
    return block


def _copy(module: ir.Module, name: str, arguments: Sequence[str], dtype: Any, masked: bool) -> None:
    f = Function(module, f"{name}_masked" if masked else name, arguments, dtype, public=True)
    a = f.arguments
    own = f.build.ptrtoint(f.build.alloca(I64), I64)  # holds r, for rows without a list

    def row(of: str, r: ir.Value) -> ir.Value:
        """Return the address of row r of the source or target."""
        if "source_list" in arguments:
            listed = getattr(a, f"{of}_list")
            f.build.store(r, f.pointer(own, I64))
            has_list = f.build.icmp_signed("!=", listed, I64(0))
            r = f.load(f.build.select(has_list, f.sum(listed, f.times(r, 8)), own), I64)
        return f.sum(getattr(a, of), f.times(r, getattr(a, f"{of}_row")))

    size, mask = f.lanes * f.itemsize, f.first_lanes(a.tail)
    ragged = f.build.zext(f.less(I64(0), a.tail), I64)
    whole = f.build.sub(a.vectors, ragged)
    with f.loop(a.rows) as r:
        source, target = row("source", r), row("target", r)
        with f.loop(whole) as v:
            f.store_vector(f.load_vector(f.sum(source, f.times(v, size))), f.sum(target, f.times(v, size)))
        with f.loop(a.vectors, whole) as v:
            vector = f.load_vector(f.sum(source, f.times(v, size)), mask)
            f.store_vector(vector, f.sum(target, f.times(v, size)), mask if masked else None)
    f.end()


def _add_rows(module: ir.Module, dtype: Any) -> None:
    f = Function(module, "add_rows", leaves.ADD_ROWS, dtype, public=True)
    a = f.arguments
    size = f.lanes * f.itemsize
    with f.loop(a.vectors) as v:
        column, place = f.sum(a.source, f.times(v, size)), f.sum(a.sums, f.times(v, size))
        before = f.build.block
        head, body, done = (f.ir.append_basic_block(name) for name in ("head", "body", "done"))
        f.build.branch(head)
        f.build.position_at_end(head)
        r, total = f.build.phi(I64), f.build.phi(f.vector)
        r.add_incoming(I64(0), before)
        total.add_incoming(f.constant(0), before)
        f.build.cbranch(f.less(r, a.rows), body, done)
        f.build.position_at_end(body)
        more = f.build.fadd(total, f.load_vector(f.sum(column, f.times(r, a.source_row))))
        r.add_incoming(f.sum(r, 1), body)
        total.add_incoming(more, body)
        f.build.branch(head)
        f.build.position_at_end(done)
        f.store_vector(f.build.fadd(f.load_vector(place), total), place)
    f.end()
