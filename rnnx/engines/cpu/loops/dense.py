"""The product of dense layers, for Numba: z = init + a b.

Slices are rows of z if it has at least as many rows as columns, and columns otherwise. Each number is summed over k in
ascending order in any case, so both give the same bits.
"""

from rnnx.engines.cpu.codegen.gemm import KC
from rnnx.engines.cpu.codegen.intrinsics import call_product
from rnnx.engines.cpu.loops.examples import share, vectors_of
from rnnx.engines.cpu.loops.packing import pack_columns, pack_rows
from rnnx.engines.cpu.loops.records import function, matrix_at


@function
def pack_matrix(p, v0, v1):
    """Pack vectors v0 ... v1 - 1 of the columns of b, whole micro-panels."""
    n_vectors = vectors_of(p, p.columns)
    for v in range(v0, v1 if p.transposed else v0):
        count = min(p.lanes, p.columns - v * p.lanes)
        pack_rows(p, n_vectors, v, 0, count, p.b + v * p.lanes * p.b_row, p.b_row, p.n_k, p.packed, p.nv)
    for k0 in range(0, 0 if p.transposed else p.n_k, KC):
        rows = min(KC, p.n_k - k0)
        for panel in range(v0, v1, p.nv):
            pack_columns(p, p.b + k0 * p.b_row, p.b_row, k0, rows, k0, p.columns, panel, p.packed, p.n_k)


@function
def multiply_rows(p, r0, r1):
    """Multiply rows r0 ... r1 - 1 of a by the packed b."""
    vectors, row = vectors_of(p, p.columns), p.columns * p.item
    call_product(
        p.product, w=p.packed, n_vectors=vectors, v0=0, v1=vectors, n_k=p.n_k, h=p.a + r0 * p.a_row, h_row=p.a_row,
        h_k=p.a_k, rows=r1 - r0, init=p.init, init_row=0, z=p.z + r0 * row, z_row=row, tail=p.columns % p.lanes, back=0,
    )  # fmt: skip


@function
def multiply_block(p, packed, k0, v0, v1):
    """Add the block of k that begins at k0 to vectors v0 ... v1 - 1 of the columns of z."""
    k, row, column = min(KC, p.n_k - k0), p.columns * p.item, v0 * p.lanes * p.item
    columns = min(p.columns, v1 * p.lanes) - v0 * p.lanes
    for panel in range(0, v1 - v0, p.nv):
        pack_columns(p, p.b + k0 * p.b_row + column, p.b_row, 0, k, 0, columns, panel, packed, k)
    z = p.z + column
    init, init_row = (z, row) if k0 else (p.init + column, 0)
    call_product(
        p.product, w=packed, n_vectors=v1 - v0, v0=0, v1=v1 - v0, n_k=k, h=p.a + k0 * p.a_k, h_row=p.a_row,
        h_k=p.a_k, rows=p.rows, init=init, init_row=init_row, z=z, z_row=row,
        tail=columns % p.lanes, back=0,
    )  # fmt: skip


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
        multiply_rows(p, r0 + first, r0 + end)
