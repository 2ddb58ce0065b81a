"""The products of dense layers, for Numba: z = init + a b, and the gradients of z = a w^T + b.

Slices are rows or columns of a result. Each number is summed over k in ascending order in any case, so all give the
same bits.
"""

from rnnx.engines.cpu.codegen.gemm import KC, MC
from rnnx.engines.cpu.codegen.intrinsics import call_add_rows, call_copy
from rnnx.engines.cpu.loops.examples import share, vectors_of
from rnnx.engines.cpu.loops.packing import pack_columns, pack_rows
from rnnx.engines.cpu.loops.products import add_product
from rnnx.engines.cpu.loops.records import dense_gradients_at, function, matrix_at


@function
def pack_panels(p, b, b_row, n_k, columns, v0, v1, packed):
    """Pack vectors v0 ... v1 - 1 of the columns of b, whole micro-panels."""
    for k0 in range(0, n_k, KC):
        rows = min(KC, n_k - k0)
        for panel in range(v0, v1, p.nv):
            pack_columns(p, b + k0 * b_row, b_row, k0, rows, k0, columns, panel, packed, n_k)


@function
def pack_matrix(p, v0, v1):
    """Pack vectors v0 ... v1 - 1 of the columns of the b of a product."""
    if not p.transposed:
        pack_panels(p, p.b, p.b_row, p.n_k, p.columns, v0, v1, p.packed)
        return
    for v in range(v0, v1):
        count = min(p.lanes, p.columns - v * p.lanes)
        rows, vectors = p.b + v * p.lanes * p.b_row, vectors_of(p, p.columns)
        pack_rows(p, vectors, v, 0, count, rows, p.b_row, p.n_k, p.packed, p.nv)


@function
def multiply_block(p, packed, k0, v0, v1):
    """Add the block of k that begins at k0 to vectors v0 ... v1 - 1 of the columns of z."""
    k, column = min(KC, p.n_k - k0), v0 * p.lanes * p.item
    columns, z = min(p.columns, v1 * p.lanes) - v0 * p.lanes, p.z + column
    pack_panels(p, p.b + k0 * p.b_row + column, p.b_row, k, columns, 0, v1 - v0, packed)
    init, row = z if k0 else p.init + column, p.columns * p.item
    init_row, h = row if k0 else 0, p.a + k0 * p.a_k
    add_product(p, p.product, packed, columns, k, h, p.a_row, p.a_k, p.rows, init, init_row, z, row)


@function
def multiply(section, me, n, descriptor):
    """Run a section of slice `me`: pack a share of b, or multiply some rows; or else multiply a block of k."""
    p = matrix_at(descriptor)
    v0, v1 = share(me, n, vectors_of(p, p.columns), p.nv)
    if p.by_rows == 0:
        multiply_block(p, p.packed + me * p.scratch_size, section * KC, v0, v1)
    elif section == 0:
        pack_matrix(p, v0, v1)
    else:
        r0, r1 = share(me, n, p.rows, 1)
        first, end = share(section - 1, p.parts, r1 - r0, 1)
        row, first, end = p.columns * p.item, r0 + first, r0 + end
        h, z, rows = p.a + first * p.a_row, p.z + first * row, end - first
        add_product(p, p.product, p.packed, p.columns, p.n_k, h, p.a_row, p.a_k, rows, p.init, 0, z, row)


@function
def add_weight_gradients(p, me, n, k0, k):
    """Add what rows k0 ... k0 + k - 1 of dz and a are for slice me's rows or columns of dw, and for its part of db."""
    c0, c1, v0, v1 = 0, p.n_out, 0, vectors_of(p, p.n_in)
    if p.by_rows:
        c0, c1 = share(me, n, c1, p.lanes)
    else:
        v0, v1 = share(me, n, v1, p.nv)
    if c0 == c1 or v0 == v1:
        return
    row_in, row_out, dz = p.n_in * p.item, p.n_out * p.item, p.scratch + me * p.scratch_size
    packed, dz_row = dz + p.block_b, (MC + p.lanes) * p.item  # an odd number of cache lines, to spread rows over sets
    column, columns = v0 * p.lanes * p.item, min(p.n_in, v1 * p.lanes) - v0 * p.lanes
    pack_panels(p, p.a + k0 * row_in + column, row_in, k, columns, 0, v1 - v0, packed)
    for c in range(c0, c1, MC):
        rows = min(MC, c1 - c)
        vectors, source = vectors_of(p, rows), p.dz + k0 * row_out + c * p.item
        call_copy(p.copy, source, row_out, k, vectors, rows % p.lanes, target=dz, target_row=dz_row)
        if v0 == 0:  # all slices of rows, one of columns
            call_add_rows(p.add_rows, dz, dz_row, k, vectors, p.db + c * p.item)
        dw = p.dw + c * row_in + column
        init, init_row = (dw, row_in) if k0 else (p.zeros, 0)
        add_product(p, p.product, packed, columns, k, dz, p.item, dz_row, rows, init, init_row, dw, row_in)


@function
def gradients(section, me, n, descriptor):
    """Run a section of slice `me`: pack a share of w, or compute da and add to dw and db for its part of a block of
    rows.
    """
    p = dense_gradients_at(descriptor)
    if section == 0:
        v0, v1 = share(me, n, vectors_of(p, p.n_in), p.nv)
        pack_panels(p, p.w, p.n_in * p.item, p.n_out, p.n_in, v0, v1, p.packed)
        return
    k0 = (section - 1) * KC
    k = min(KC, p.rows - k0)
    add_weight_gradients(p, me, n, k0, k)
    r0, r1 = share(me, n, k, 1)
    row_in, row_out = p.n_in * p.item, p.n_out * p.item
    h, z = p.dz + (k0 + r0) * row_out, p.da + (k0 + r0) * row_in
    add_product(p, p.product, p.packed, p.n_in, p.n_out, h, row_out, p.item, r1 - r0, p.zeros, 0, z, row_in)
