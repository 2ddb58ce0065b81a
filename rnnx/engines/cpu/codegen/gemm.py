"""A matrix product on packed weights, Z = init + H W: all products of the compiled engine.

A BLAS packs its operands at every call, while the loop over time multiplies by the same weights at every step.
And the threads of a BLAS keep spinning after a call, on the cores that our slices of the batch need (measured:
an LSTM step up to 3 times slower than without compiling). Hence this room of our own:

* W (K, C) is packed into *panels* of NV vectors of columns, each contiguous and read front to back;
* a *tile* computes NR rows by one panel with all NV * NR sums in registers. These, NV weights and one number
  of H must fit the registers; `tile_rows` has NR for every NV;
* long sums are taken in blocks of K_BLOCK, so that a panel's block stays in the cache, and many rows in blocks
  of ROW_BLOCK, so that they do;
* every element is one sum over k in rising order, whatever the shapes of tiles and blocks: a row's result does
  not depend on the rows beside it, so slices of a batch give the bits of the whole.

The tile is written in LLVM's intermediate representation because compilers do not keep the sums in registers.
Vectors of any width and any element type are legal there: on a CPU without them LLVM takes them apart.

Layout of packed weights: blocks of K_BLOCK rows; in a block panel after panel; in a panel row after row. So the
panel that begins with vector v of a block of k rows beginning at row k0 stands at (k0 V + v k) L, where V is the
number of vectors of all columns. Dimensions: K length of the sums, C columns, L numbers of a vector.
"""

from typing import Any

from llvmlite import ir

from rnnx.engines.cpu.codegen.ir import I64, Function, lanes, machine

K_BLOCK = 384
ROW_BLOCK = 96

_ROWS = {32: {4: 6, 3: 8, 2: 12, 1: 12}, 16: {2: 6, 1: 12}}


def tile_rows(n_vectors: int) -> int:
    """NR for NV."""
    return _ROWS[machine().registers][n_vectors]


def panel_vectors(group: int) -> int:
    """NV for columns that come in groups of so many vectors (the gates of a unit): one that fits, if any."""
    widest = max(_ROWS[machine().registers])
    return widest - 1 if widest > 2 and group % widest and not group % (widest - 1) else widest


def n_vectors(dtype: Any, columns: int) -> int:
    """Vectors that hold so many columns."""
    return -(-columns // lanes(dtype))


def _tile(module: ir.Module, dtype: Any, n_v: int, n_r: int, masked: bool) -> Function:
    """z[r, :] = init[r, :] + sum over k of h[r, k] w[k, :]; masked: the last vector has `tail` columns only."""
    names = ("w", "h", "ldh", "stride", "n_k", "init", "ldi", "z", "ldz", "tail")
    f = Function(module, f"tile_{n_v}x{n_r}{'_masked' if masked else ''}", names, dtype)
    w, h, ldh, stride, n_k, init, ldi, z, ldz, tail = f.arguments
    size = f.lanes * f.itemsize
    every = [(r, v) for r in range(n_r) for v in range(n_v)]
    masks = [f.first_lanes(tail) if masked and v == n_v - 1 else None for v in range(n_v)]
    rows = [f.sum(h, f.times(ldh, r)) for r in range(n_r)]
    first = {(r, v): f.load_vector(f.sum(init, f.times(ldi, r), v * size), masks[v]) for r, v in every}

    entry, body, done = f.build.block, f.ir.append_basic_block("body"), f.ir.append_basic_block("done")
    f.build.branch(body)
    f.build.position_at_end(body)
    k, at_w, along = (f.build.phi(I64) for _ in range(3))
    sums = {at: f.build.phi(f.vector) for at in every}
    weights = [f.load_vector(f.sum(at_w, v * size)) for v in range(n_v)]
    results = {}
    for r in range(n_r):
        number = f.spread(f.load(f.sum(rows[r], along), f.real))
        for v in range(n_v):
            results[r, v] = f.intrinsic("fmuladd", weights[v], number, sums[r, v])
    steps = {k: (I64(0), 1), at_w: (w, n_v * size), along: (I64(0), stride)}
    after = {phi: f.sum(phi, step) for phi, (_, step) in steps.items()}
    for phi, (start, _) in steps.items():
        phi.add_incoming(start, entry)
        phi.add_incoming(after[phi], body)
    for at, phi in sums.items():
        phi.add_incoming(first[at], entry)
        phi.add_incoming(results[at], body)
    f.build.cbranch(f.less(after[k], n_k), body, done)

    f.build.position_at_end(done)
    for r, v in every:
        f.store_vector(results[r, v], f.sum(z, f.times(ldz, r), v * size), masks[v])
    return f.end()


def _strip(module: ir.Module, dtype: Any, n_v: int, masked: bool) -> Function:
    """One panel by any number of rows: as few tiles as can be, of nearly the same height."""
    names = ("w", "h", "ldh", "stride", "n_k", "init", "ldi", "z", "ldz", "tail", "rows")
    tallest = tile_rows(n_v)
    tiles = {n_r: _tile(module, dtype, n_v, n_r, masked) for n_r in range(1, tallest + 1)}
    f = Function(module, f"strip_{n_v}{'_masked' if masked else ''}", names, dtype)
    w, h, ldh, stride, n_k, init, ldi, z, ldz, tail, rows = f.arguments
    number = f.build.sdiv(f.sum(rows, tallest - 1), I64(tallest))
    with f.loop(number) as block:
        begin, end = (f.build.sdiv(f.times(rows, f.sum(block, i)), number) for i in (0, 1))
        h_here, init_here, z_here = (f.sum(a, f.times(ld, begin)) for a, ld in ((h, ldh), (init, ldi), (z, ldz)))
        with f.cases(f.build.sub(end, begin)) as case:
            for n_r, tile in tiles.items():
                with case(n_r):
                    f.call(tile, w, h_here, ldh, stride, n_k, init_here, ldi, z_here, ldz, tail)
    return f.end()


def emit_product(module: ir.Module, dtype: Any, n_v: int) -> None:
    """Write the function product_<NV>, of panels of NV vectors.

    ::

        product(w, V, v0, v1, n_k, h, ldh, stride, rows, init, ldi, z, ldz, tail)

    The columns of vectors v0 ... v1 - 1, of which v0 begins a panel, of `rows` rows. h[r, k] stands at
    h + r ldh + k stride; `init` and `z` are the places of column v0. ldi = 0 starts every row alike. With
    tail > 0 the last of all vectors has only so many columns in `init` and `z`.
    """
    names = ("w", "V", "v0", "v1", "n_k", "h", "ldh", "stride", "rows", "init", "ldi", "z", "ldz", "tail")
    strips = {2 * v + t: _strip(module, dtype, v, bool(t)) for v in range(1, n_v + 1) for t in (0, 1)}
    f = Function(module, f"product_{n_v}", names, dtype, public=True)
    w, V, v0, v1, n_k, h, ldh, stride, rows, init, ldi, z, ldz, tail = f.arguments
    size = f.lanes * f.itemsize
    with f.loop(rows, step=ROW_BLOCK) as r, f.loop(n_k, step=K_BLOCK) as k0, f.loop(v1, v0, n_v) as v:
        k, n_rows = f.least(K_BLOCK, f.build.sub(n_k, k0)), f.least(ROW_BLOCK, f.build.sub(rows, r))
        column = f.times(f.build.sub(v, v0), size)
        w_here = f.sum(w, f.times(f.sum(f.times(k0, V), f.times(v, k)), size))
        h_here = f.sum(h, f.times(r, ldh), f.times(k0, stride))
        z_here = f.sum(z, f.times(r, ldz), column)
        begins = f.build.icmp_signed("==", k0, I64(0))
        init_here = f.build.select(begins, f.sum(init, f.times(r, ldi), column), z_here)
        ldi_here = f.build.select(begins, ldi, ldz)
        vectors = f.least(n_v, f.build.sub(v1, v))
        ends = f.build.and_(f.build.icmp_signed("==", f.sum(v, vectors), V), f.less(I64(0), tail))
        with f.cases(f.sum(f.times(vectors, 2), f.build.zext(ends, I64))) as case:
            for key, strip in strips.items():
                with case(key):
                    f.call(strip, w_here, h_here, ldh, stride, k, init_here, ldi_here, z_here, ldz, tail, n_rows)
    f.end()
