"""The products of a backward pass, for Numba: through the weights, and the gradients of the weights themselves.

See `passes` for what these functions have in common.
"""

from rnnx.engines.cpu.codegen.gemm import K_BLOCK, ROW_BLOCK
from rnnx.engines.cpu.codegen.intrinsics import call5, call6, call7, call14, get
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.loops.packing import function, pack_columns, share, vectors_of


@function
def add_product(p, dz, rows, n_k, packed, columns, v0, v1, init, ldi, out):
    """Rows of out = init + dz W, at the columns of vectors v0 ... v1 - 1."""
    item, lanes = get(p, P.ITEM), get(p, P.LANES)
    column, tail = v0 * item * lanes, columns % lanes
    vectors, product = vectors_of(p, columns), get(p, P.PLAIN_PRODUCT)
    ld = n_k * item
    shift = column if ldi else 0
    call14(
        product, packed, vectors, v0, v1, n_k, dz, ld, item, rows, init + shift, ldi, out + column, columns * item, tail
    )


@function
def input_gradient(p, stage, first_row, rows):
    """Rows of dx, if it is wanted; the stage that runs first begins, the others add."""
    if get(p, P.DX) == 0:
        return
    n_x, item = get(p, P.N_X), get(p, P.ITEM)
    n_k = get(stage, P.N_GATES) * get(p, P.N)
    out = get(p, P.DX) + first_row * n_x * item
    init, ldi = (get(p, P.ZEROS), 0) if get(stage, P.LAST) else (out, n_x * item)
    dz = get(stage, P.DZ_X) + first_row * n_k * item
    add_product(p, dz, rows, n_k, get(stage, P.W_X), n_x, 0, vectors_of(p, n_x), init, ldi, out)


@function
def add_weight_gradient(p, a, lda, rows, c, b, columns, k, begins, out, ld):
    """Rows c ... of out (+)= A B, for a block of A, transposed, and a packed block of B."""
    item = get(p, P.ITEM)
    out += c * ld
    init, ldi = (get(p, P.ZEROS), 0) if begins else (out, ld)
    vectors, tail = vectors_of(p, columns), columns % get(p, P.LANES)
    call14(get(p, P.PLAIN_PRODUCT), b, vectors, 0, vectors, k, a, item, lda, rows, init, ldi, out, ld, tail)


@function
def block_of_dz(p, dz, n_c, k0, k, c, rows, a, lda, sums):
    """A block of dz with rows close to each other, and what it adds to the sums of its columns."""
    item, lanes = get(p, P.ITEM), get(p, P.LANES)
    vectors = vectors_of(p, rows)
    call7(get(p, P.COPY), dz + (k0 * n_c + c) * item, n_c * item, k, vectors, rows % lanes, a, lda)
    call5(get(p, P.ADD_ROWS), a, lda, k, vectors, sums + c * item)


@function
def pack_block(p, source, columns, k0, k, packed):
    """Rows k0 ... k0 + k - 1 of what dz is multiplied by."""
    row = columns * get(p, P.ITEM)
    for panel in range(0, vectors_of(p, columns), get(p, P.PLAIN_NV)):
        pack_columns(p, source + k0 * row, row, 0, k, 0, columns, panel, packed, k)


@function
def clear(p, place, vectors):
    """Fill vectors with zeros."""
    call7(get(p, P.COPY), get(p, P.ZEROS), 0, vectors, 1, 0, place, get(p, P.LANES) * get(p, P.ITEM))


# Where inputs are indices, dz^T onehot is summed up in a table (n_x, G n) that rows of dz are added to. It lies in
# blocks of at most ROW_BLOCK columns, each with its rows close to each other; no two threads have the same block.


@function
def add_to_table(p, a, lda, k, x, table, columns):
    """Add each row of a block of dz to the row of the table that its index says."""
    vectors = vectors_of(p, columns)
    row = vectors * get(p, P.LANES) * get(p, P.ITEM)
    for r in range(k):
        call5(get(p, P.ADD_ROWS), a + r * lda, 0, 1, vectors, table + get(x, r) * row)


@function
def gradient_of_table(p, table, columns, out, ld):
    """A block of the table, transposed."""
    item, lanes, n_x = get(p, P.ITEM), get(p, P.LANES), get(p, P.N_X)
    row = vectors_of(p, columns) * lanes * item
    for i in range(0, n_x, lanes):
        count = min(lanes, n_x - i)
        transpose = get(p, P.TRANSPOSE if count == lanes else P.TRANSPOSE_MASKED)
        call6(transpose, table + i * row, row, count, columns, out + i * item, ld)


@function
def weight_gradients(me, n, p, stage, scratch):
    """DW = dz^T [operand, x] and db = the sum of dz, over all steps and examples; rows c0 ... c1 - 1."""
    item, lanes, n_units, n_x = get(p, P.ITEM), get(p, P.LANES), get(p, P.N), get(p, P.N_X)
    n_c, n_k = get(stage, P.N_GATES) * n_units, get(p, P.T) * get(p, P.M)
    a, b_h = scratch + get(p, P.BLOCK_A), scratch + get(p, P.BLOCK_B)
    lda = (ROW_BLOCK + lanes) * item  # an odd number of cache lines: the rows do not fall on each other in the cache
    dw, ld = get(stage, P.DW), (n_units + n_x) * item
    c0, c1 = share(me, n, n_c, lanes)
    table = get(stage, P.TABLE)
    for sums in (get(stage, P.DB_X), get(stage, P.DB_H)):
        clear(p, sums + c0 * item, vectors_of(p, c1 - c0))
    if table:
        clear(p, table + c0 * n_x * item, n_x * vectors_of(p, c1 - c0))
    for k0 in range(0, n_k, K_BLOCK):
        k = min(K_BLOCK, n_k - k0)
        b_x = b_h + k * vectors_of(p, n_units) * lanes * item
        pack_block(p, get(stage, P.OPERAND), n_units, k0, k, b_h)
        if not table:
            pack_block(p, get(p, P.X), n_x, k0, k, b_x)
        for c in range(c0, c1, ROW_BLOCK):
            rows = min(ROW_BLOCK, c1 - c)
            block_of_dz(p, get(stage, P.DZ_X), n_c, k0, k, c, rows, a, lda, get(stage, P.DB_X))
            if table:
                add_to_table(p, a, lda, k, get(p, P.X) + 8 * k0, table + c * n_x * item, rows)
            else:
                add_weight_gradient(p, a, lda, rows, c, b_x, n_x, k, k0 == 0, dw + n_units * item, ld)
            if not get(stage, P.ADDITIVE):
                block_of_dz(p, get(stage, P.DZ_H), n_c, k0, k, c, rows, a, lda, get(stage, P.DB_H))
            add_weight_gradient(p, a, lda, rows, c, b_h, n_units, k, k0 == 0, dw, ld)
    for c in range(c0, c1 if table else c0, ROW_BLOCK):
        gradient_of_table(p, table + c * n_x * item, min(ROW_BLOCK, c1 - c), dw + c * ld + n_units * item, ld)
