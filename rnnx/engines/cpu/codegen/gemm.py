"""GEMM with packed weights, Z = init + H W, for all products of the compiled engine.

A BLAS packs its operands in every call, but the loop over time reuses the same weights. BLAS threads also spin after
each call, on the cores that the thread pool needs: with a BLAS, a compiled LSTM step was up to 3 times slower than an
uncompiled one. This GEMM has the structure of BLIS:

 * W (K, C) is packed into *micro-panels* of NR = NV L columns, each contiguous.
 * The *micro-kernel* computes MR rows by one micro-panel with all MR x NV sums in registers, next to NV vectors of
   weights and one element of H.
 * k is split into blocks of KC and rows into blocks of MC, which stay in the cache.
 * While it works on a micro-panel, it prefetches the next one to the L2 cache: a part of each row in each block of MR
   rows, and all of it if a single block takes long enough. Weights that do not fit in that cache are thus read at its
   speed.
 * The steps of a loop take the micro-panels forwards and backwards in turn, so that each begins with those that are
   still in the cache.
 * Each element is summed over k in ascending order, whatever the kernel and block sizes. A row's result thus does not
   depend on the other rows, so any part of a batch gives the bits of the whole. `runtime.tuning` chooses NV.

The micro-kernel is written in LLVM IR because compilers do not keep the sums in registers. LLVM splits vectors that are
wider than the CPU's.

Weights that only few rows multiply, once, need not be packed: a product also reads rows of columns one after another.
Packed weights are ordered by block of KC rows, then micro-panel, then row. The micro-panel that begins at vector v, in
the block of k rows that begins at row k0, has offset (k0 V + v k) L, where V is the number of vectors of all columns.
Weights in a small format are packed likewise; see `formats`.
Dimensions: K summation length, C columns, L lanes of a vector.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.formats import Format, expanded, format_of, panel_offset
from rnnx.engines.cpu.codegen.ir import I64, Function, lanes, machine
from rnnx.engines.cpu.runtime.buffer_pool import LINE

KC = 384
MC = 96

MR = {32: {4: 6, 3: 8, 2: 12, 1: 12}, 16: {2: 6, 1: 12}}  # by number of registers and NV
_MANY_ROWS = 8  # of a micro-kernel, which has time to prefetch as many lines as it reads


def n_vectors(dtype: Any, columns: int) -> int:
    """Return the number of vectors needed for `columns` columns."""
    return -(-columns // lanes(dtype))


Sums = dict[tuple[int, int], ir.Value]  # by row and vector of a micro-kernel


def reads_rows(weights: str = "") -> bool:
    """Return whether a product can read weights that are not packed: numbers, with loads of a part of a vector."""
    return not weights and machine().vector_bytes > 16


_MICRO_KERNEL = ("w", "w_k", "h", "h_row", "h_k", "n_k", "init", "init_row", "z", "z_row", "tail", "next_w", "next_k")
_PANEL_KERNEL = (*(name for name in _MICRO_KERNEL if name not in ("w_k", "next_k")), "w_row", "rows")


def _micro_kernel(module: ir.Module, dtype: Any, form: Format, nv: int, mr: int, masked: bool) -> Function:
    """Emit z[r, :] = init[r, :] + sum_k h[r, k] w[k, :]; if masked, the last vector has only `tail` columns."""
    f = Function(module, f"micro_kernel_{mr}x{nv}{'_masked' if masked else ''}", _MICRO_KERNEL, dtype)
    a, size = f.arguments, f.lanes * f.itemsize
    every = [(r, v) for r in range(mr) for v in range(nv)]
    masks = [f.first_lanes(a.tail) if masked and v == nv - 1 else None for v in range(nv)]
    rows = [f.sum(a.h, f.times(a.h_row, r)) for r in range(mr)]

    def initial() -> Sums:
        return {(r, v): f.load_vector(f.sum(a.init, f.times(a.init_row, r), v * size), masks[v]) for r, v in every}

    if form.scaled:
        sums = _sums(f, form, nv, rows, dict.fromkeys(every, f.constant(0)))
        scales = [f.load_vector(f.sum(a.w, v * size)) for v in range(nv)]
        results = {(r, v): f.intrinsic("fmuladd", sums[r, v], scales[v], z) for (r, v), z in initial().items()}
    else:
        results = _sums(f, form, nv, rows, initial(), masks if reads_rows() else ())
    for r, v in every:
        f.store_vector(results[r, v], f.sum(a.z, f.times(a.z_row, r), v * size), masks[v])
    return f.end()


def _sums(
    f: Function, form: Format, nv: int, rows: list[ir.Value], first: Sums, masks: Sequence[ir.Value | None] = ()
) -> Sums:
    """Emit the sums of a micro-kernel, without the weights' scales. `masks`: of the columns of numbers to load."""
    a, width, sums = f.arguments, f.lanes * form.item * form.terms, list(first.values())
    begin = f.sum(a.w, nv * f.lanes * f.itemsize) if form.scaled else a.w
    lines = -(-nv * f.lanes * form.item // LINE)  # of weights per term
    if len(rows) < _MANY_ROWS:  # reading weights takes about as long as multiplying, or longer
        lines = int(2 * len(rows) > MR[machine().registers][nv])

    def add(k: ir.Value, terms: int) -> None:
        """Add terms from k on, which is the first of a word."""
        for word in range(0, terms, form.terms):
            if form.terms == 1 and not form.scaled:
                at = f.sum(begin, f.times(f.sum(k, word), a.w_k))
            else:
                at = f.sum(begin, f.times(f.sum(k, word), nv * width // form.terms))
            weights = [expanded(f, form, f.sum(at, v * width), masks[v] if masks else None) for v in range(nv)]
            for term in range(word, min(word + form.terms, terms)):
                for line in range(lines):
                    f.prefetch(f.sum(a.next_w, f.times(f.sum(k, term), a.next_k), line * LINE))
                along = f.times(f.sum(k, term), a.h_k)
                numbers = [f.spread(f.load(f.sum(row, along), f.real)) for row in rows]
                for i, (r, v) in enumerate(first):
                    sums[i] = f.intrinsic("fmuladd", weights[v][term - word], numbers[r], sums[i])

    whole = f.build.and_(a.n_k, I64(-form.unroll))
    with f.loop(whole, step=form.unroll, carried=sums) as k:
        add(k, form.unroll)
    with f.loop(a.n_k, whole, carried=sums) as k:
        add(k, 1)
    return dict(zip(first, sums, strict=True))


def _panel_kernel(module: ir.Module, dtype: Any, form: Format, nv: int, masked: bool) -> Function:
    """Multiply any number of rows by one micro-panel, in as few micro-kernels of nearly equal height as possible."""
    tallest = MR[machine().registers][nv]
    kernels = {mr: _micro_kernel(module, dtype, form, nv, mr, masked) for mr in range(1, tallest + 1)}
    f = Function(module, f"panel_kernel_{nv}{'_masked' if masked else ''}", _PANEL_KERNEL, dtype)
    a = f.arguments
    number = f.build.udiv(f.sum(a.rows, tallest - 1), I64(tallest))
    least = f.build.udiv(a.rows, number)
    more = f.build.sub(a.rows, f.times(least, number))  # blocks with one row more
    row = nv * f.lanes * form.item
    is_packed = f.build.icmp_signed("==", a.w_row, I64(0))
    part = f.build.udiv(I64(row), number)
    with f.loop(number) as block:
        is_more = f.less(block, more)
        begin = f.sum(f.times(least, block), f.build.select(is_more, block, more))
        strides = {"h": a.h_row, "init": a.init_row, "z": a.z_row}
        here = {name: f.sum(getattr(a, name), f.times(row, begin)) for name, row in strides.items()}
        here |= {"w_k": f.build.select(is_packed, I64(row), a.w_row)}
        here |= {"next_w": f.sum(a.next_w, f.times(f.build.select(is_packed, a.n_k, I64(1)), f.times(part, block)))}
        here |= {"next_k": f.build.select(is_packed, part, a.w_row)}
        f.dispatch(f.sum(least, f.build.zext(is_more, I64)), kernels, **vars(a) | here)
    return f.end()


def emit_product(module: ir.Module, dtype: Any, nv: int, weights: str = "") -> None:
    """Emit product_<NV>, for micro-panels of NV vectors. Vector v0 must begin one; init_row = 0 repeats one row.

    `weights` is the format of the packed weights; see `formats`.
    """
    form = format_of(dtype, weights)
    kernels = {2 * v + t: _panel_kernel(module, dtype, form, v, bool(t)) for v in range(1, nv + 1) for t in (0, 1)}
    f = Function(module, f"product_{nv}", leaves.PRODUCT, dtype, public=True)
    a, size = f.arguments, f.lanes * f.itemsize
    last = f.times(f.build.sdiv(f.sum(a.v1, -1, f.build.neg(a.v0)), I64(nv)), nv)
    step = f.build.select(f.build.icmp_signed("==", a.back, I64(0)), I64(nv), I64(-nv))
    is_packed = f.build.icmp_signed("==", a.w_row, I64(0))

    def panel(k0: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        unpacked = f.sum(f.times(k0, a.w_row), f.times(v, size))
        return f.sum(a.w, f.build.select(is_packed, panel_offset(f, form, KC, k0, k, v, a.n_vectors), unpacked))

    with f.loop(a.rows, step=MC) as r, f.loop(a.n_k, step=KC) as k0, f.loop(a.v1, a.v0, nv) as i:
        at = f.build.sub(i, a.v0)
        v = f.build.select(f.build.icmp_signed("==", a.back, I64(0)), i, f.sum(a.v0, f.build.sub(last, at)))
        k, rows = f.least(KC, f.build.sub(a.n_k, k0)), f.least(MC, f.build.sub(a.rows, r))
        column = f.times(f.build.sub(v, a.v0), size)
        w, next_w = panel(k0, k, v), panel(k0, k, f.sum(v, step))
        h = f.sum(a.h, f.times(r, a.h_row), f.times(k0, a.h_k))
        z = f.sum(a.z, f.times(r, a.z_row), column)
        is_first = f.build.icmp_signed("==", k0, I64(0))
        init = f.build.select(is_first, f.sum(a.init, f.times(r, a.init_row), column), z)
        init_row = f.build.select(is_first, a.init_row, a.z_row)
        here = {"w": w, "h": h, "n_k": k, "init": init, "init_row": init_row, "z": z, "rows": rows, "next_w": next_w}
        vectors = f.least(nv, f.build.sub(a.v1, v))
        has_tail = f.build.and_(f.build.icmp_signed("==", f.sum(v, vectors), a.n_vectors), f.less(I64(0), a.tail))
        f.dispatch(f.sum(f.times(vectors, 2), f.build.zext(has_tail, I64)), kernels, **vars(a) | here)
    f.end()
