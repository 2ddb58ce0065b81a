"""Kernels that copy, transpose and sum blocks of numbers, with the arguments declared in `leaves`."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function, integers, machine
from rnnx.engines.cpu.runtime.buffer_pool import LINE

_PLAIN, _MASKED, _NONTEMPORAL = "", "_masked", "_nontemporal"


def emit_copies(module: ir.Module, dtype: Any) -> None:
    """Emit copy, copy_rows and transpose, which have masked variants, and add_rows. Where a vector fills a cache line,
    there are also variants of copy_rows and transpose for whole lines, which are written past the cache.
    """
    for variant in (_PLAIN, _MASKED, *([_NONTEMPORAL] if machine().vector_bytes == LINE else [])):
        _transpose(module, dtype, variant)
        _copy(module, "copy_rows", leaves.COPY_ROWS, dtype, variant)
    for variant in (_PLAIN, _MASKED):
        _copy(module, "copy", leaves.COPY, dtype, variant)
    _add_rows(module, dtype)


def _store(f: Function, vector: ir.Value, address: ir.Value, mask: ir.Value | None, variant: str) -> None:
    if variant != _NONTEMPORAL:
        f.store_vector(vector, address, mask)
        return
    stored = f.build.store(vector, f.pointer(address, f.vector))
    stored.align = LINE
    stored.set_metadata("nontemporal", f.module.add_metadata([I32(1)]))


def _transpose(module: ir.Module, dtype: Any, variant: str) -> None:
    f = Function(module, f"transpose{variant}", leaves.TRANSPOSE, dtype, public=True)
    a = f.arguments
    last = f.sum(a.count, -1)
    rows = [f.sum(a.source, f.times(a.source_row, f.least(r, last))) for r in range(f.lanes)]
    mask = f.first_lanes(a.count) if variant == _MASKED else None
    whole = f.build.sub(a.n, f.build.srem(a.n, I64(f.lanes)))
    with f.loop(whole, step=f.lanes) as k:
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize))) for row in rows]
        for i, vector in enumerate(transposed(f, block)):
            _store(f, vector, f.sum(a.target, f.times(f.sum(k, i), a.target_row)), mask, variant)
    # Transpose the remainder in a square on the stack.
    square = f.build.ptrtoint(f.build.alloca(f.vector, f.lanes), I64)
    with f.loop(a.n, whole, f.lanes) as k:
        there = f.first_lanes(f.build.sub(a.n, k))
        block = [f.load_vector(f.sum(row, f.times(k, f.itemsize)), there) for row in rows]
        for i, vector in enumerate(transposed(f, block)):
            f.store_vector(vector, f.sum(square, i * f.lanes * f.itemsize))
        with f.loop(f.build.sub(a.n, k)) as i:
            vector = f.load_vector(f.sum(square, f.times(i, f.lanes * f.itemsize)))
            _store(f, vector, f.sum(a.target, f.times(f.sum(k, i), a.target_row)), mask, variant)
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


def _copy(module: ir.Module, name: str, arguments: Sequence[str], dtype: Any, variant: str) -> None:
    f = Function(module, f"{name}{variant}", arguments, dtype, public=True)
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
            vector = f.load_vector(f.sum(source, f.times(v, size)))
            _store(f, vector, f.sum(target, f.times(v, size)), None, variant)
        with f.loop(a.vectors, whole) as v:
            vector = f.load_vector(f.sum(source, f.times(v, size)), mask)
            f.store_vector(vector, f.sum(target, f.times(v, size)), mask if variant == _MASKED else None)
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
