"""The products of a backward pass, for Numba. See `passes` for the conventions."""

from rnnx.engines.cpu.codegen.gemm import MC
from rnnx.engines.cpu.codegen.intrinsics import (
    call_add_rows,
    call_copy,
    call_copy_rows,
    call_product,
    call_transpose,
    load,
)
from rnnx.engines.cpu.loops.examples import end_of, move_rows, place_of, rows_before, share, vectors_of
from rnnx.engines.cpu.loops.products import add_product
from rnnx.engines.cpu.loops.records import function, gate_of, vector_of


@function
def add_products(p, stage, of_x, dz, dz_row, rows, columns, v0, v1, init, init_row, out, back):
    """Compute out = init + dz W, of the recurrent or input weights of all gates, for vectors v0 ... v1 - 1 of the
    columns; init_row = 0 repeats one row.
    """
    n_gates, row, column = stage.n_zx if of_x else stage.n_zh, columns * p.item, v0 * p.item * p.lanes
    w, w_row, n_k = stage.w_x if of_x else stage.w_h, 0, n_gates * stage.n  # packed, all gates at once
    for g in range(n_gates if p.unpacked else 1):
        if p.unpacked:
            gate = gate_of(stage, stage.n_gates - n_gates + g if of_x else g)
            w, w_row, n_k = gate.w_x if of_x else gate.w_h, gate.w_x_row if of_x else gate.w_h_row, stage.n
        first = init + (column if init_row else 0)
        call_product(
            p.product, w=w, n_vectors=vectors_of(p, columns), v0=v0, v1=v1, n_k=n_k, h=dz, h_row=dz_row, h_k=p.item,
            rows=rows, init=first, init_row=init_row, z=out + column, z_row=row, tail=columns % p.lanes, back=back,
            w_row=w_row,
        )  # fmt: skip
        dz, init, init_row = dz + stage.n * p.item, out, row


@function
def input_gradient(p, stage, first, rows, buffer):
    """Compute the rows of dx for rows of dz from `first`, if needed; the stage that runs first overwrites, the others
    add.
    """
    if p.dx == 0 or (stage.n_zx == 0 and not stage.is_last):
        return
    row, vectors, size = p.n_x * p.item, vectors_of(p, p.n_x), MC if p.lengths else max(rows, 1)
    for r in range(first, first + rows, size):
        count, listed = min(size, first + rows - r), p.positions + 8 * r
        out = place_of(listed, count, p.dx, row, buffer) if p.lengths else p.dx + r * row
        if out == buffer and not stage.is_last:
            move_rows(p, p.n_x, p.dx, listed, buffer, 0, count, 0, vectors)
        if stage.n_zx:
            init, init_row = (p.zeros, 0) if stage.is_last else (out, row)
            dz = stage.dz_x + r * stage.dz_x_row
            add_products(p, stage, True, dz, stage.dz_x_row, count, p.n_x, 0, vectors, init, init_row, out, 0)
        else:
            call_copy(p.copy_masked, p.zeros, 0, count, vectors, p.n_x % p.lanes, target=out, target_row=row)
        if out == buffer:
            move_rows(p, p.n_x, buffer, 0, p.dx, listed, count, 0, vectors)


@function
def clear_past_end(p, j0, j1):
    """Set dx of examples j0 ... j1 - 1 to zero past their ends."""
    row = p.n_x * p.item
    for j in range(j0, j1 if p.dx and p.lengths else j0):
        end = end_of(p, j)
        call_copy(
            p.copy_masked, p.zeros, 0, rows=p.n_steps - end, vectors=vectors_of(p, p.n_x), tail=p.n_x % p.lanes,
            target=p.dx + (end * p.m + j) * row, target_row=p.m * row,
        )  # fmt: skip


@function
def add_weight_gradient(p, a, a_row, rows, c, b, columns, k, is_first, out, out_row):
    """Add dz^T times a packed matrix, for a block of k, to `rows` rows of out from row c; overwrite if first."""
    out += c * out_row
    if k == 0:
        call_copy(p.copy_masked, p.zeros, 0, rows, vectors_of(p, columns), columns % p.lanes, out, out_row)
        return
    init, init_row = (p.zeros, 0) if is_first else (out, out_row)
    add_product(p, p.product, b, columns, k, a, p.item, a_row, rows, init, init_row, out, out_row)


@function
def add_recurrent_gradient(p, stage, a, a_row, rows, c, b, n_joint, k, is_first):
    """Add dz^T times the operand, packed by heads or with columns of x beside it, for a block of k, to rows
    c ... c + rows - 1 of dw_h.
    """
    if stage.heads == 1:
        columns = stage.n_operand + n_joint
        add_weight_gradient(p, a, a_row, rows, c, b, columns, k, is_first, stage.dw_h, stage.dw_h_row)
        return
    d, size = stage.n_head, vectors_of(p, stage.n_head) * p.lanes * p.item
    first, last = c // d, (c + rows - 1) // d
    for block in range(first, last + 1):  # of a gate and a head
        c0, c1 = max(c, block * d), min(c + rows, (block + 1) * d)
        packed = b + block % stage.heads * k * size
        of_block = a + (c0 - c) * p.item
        add_weight_gradient(p, of_block, a_row, c1 - c0, c0, packed, d, k, is_first, stage.dw_h, stage.dw_h_row)


@function
def block_of_dz(p, dz, dz_row, k0, k, c, rows, a, a_row, sums):
    """Copy a block of dz to contiguous memory, and add its rows to the column sums."""
    source, vectors = dz + k0 * dz_row + c * p.item, vectors_of(p, rows)
    call_copy(p.copy, source, dz_row, k, vectors, rows % p.lanes, target=a, target_row=a_row)
    call_add_rows(p.add_rows, a, a_row, k, vectors, sums + c * p.item)


@function
def pack_block(p, h, h_row, n_h, x, n_x, k0, k, packed):
    """Pack the rows of [h, x], of which one may have no columns, for rows k0 ... k0 + k - 1 of dz."""
    size, n_vectors = p.lanes * p.item, vectors_of(p, n_h + n_x)
    for panel in range(0, n_vectors, p.nv):
        width, first, target = min(p.nv, n_vectors - panel), panel * p.lanes, packed + panel * k * size
        end = min(first + width * p.lanes, n_h + n_x)
        if end % p.lanes:  # padding
            call_copy(p.copy, p.zeros, 0, k, 1, 0, target + (width - 1) * size, width * size)
        if first < n_h:
            pack_part(p, h + first * p.item, h_row, min(end, n_h) - first, k0, k, target, width * size, False)
        if end > n_h:
            begin = max(first, n_h)
            source, shift = x + (begin - n_h) * p.item, (begin - first) * p.item
            pack_part(p, source, n_x * p.item, end - begin, k0, k, target + shift, width * size, shift > 0)


@function
def pack_part(p, source, row, columns, k0, k, target, target_row, masked):
    """Copy columns of rows k0 ... k0 + k - 1 of the steps to a micro-panel; `masked`: write no padding."""
    vectors, tail = vectors_of(p, columns), columns % p.lanes
    if p.lengths:
        copy = p.copy_rows_masked if masked else p.copy_rows
        call_copy_rows(copy, source, row, k, vectors, tail, target, target_row, p.positions + 8 * k0, 0)
    else:
        copy = p.copy_masked if masked else p.copy
        call_copy(copy, source + k0 * row, row, k, vectors, tail, target, target_row)


@function
def clear(p, target, vectors):
    """Fill vectors with zeros."""
    call_copy(p.copy, p.zeros, 0, rows=vectors, vectors=1, tail=0, target=target, target_row=p.lanes * p.item)


# For index inputs, dz^T onehot is a scatter-add of the rows of dz into a table (n_x, G_x n). It is stored in blocks of
# at most MC columns with contiguous rows. No two threads write to the same block.


@function
def add_to_table(p, a, a_row, k0, k, table, columns):
    """Scatter-add a block of dz, its rows k0 ... k0 + k - 1, into the table."""
    vectors = vectors_of(p, columns)
    row = vectors * p.lanes * p.item
    for r in range(k):
        index = load(p.x, load(p.positions, k0 + r) if p.lengths else k0 + r)
        call_add_rows(p.add_rows, a + r * a_row, 0, rows=1, vectors=vectors, sums=table + index * row)


@function
def gradient_of_table(p, table, columns, out, out_row):
    """Transpose a block of the table into the gradient of the input weights."""
    row = vectors_of(p, columns) * p.lanes * p.item
    for i in range(0, p.n_x, p.lanes):
        count = min(p.lanes, p.n_x - i)
        transpose = p.transpose if count == p.lanes else p.transpose_masked
        call_transpose(transpose, table + i * row, row, count, columns, out + i * p.item, out_row)


@function
def weight_gradients(me, n, p, stage, scratch, k0, k):
    """Add a block of k from k0 to slice me's rows of dW = dz^T [operand, x] and db = sum of dz over all steps and
    examples; at the first block, also compute the gradients of vectors.
    """
    u0, u1 = share(me, n, stage.unit_vectors, 1)
    column, row = u0 * p.lanes * p.item, stage.n * p.item
    for i in range(stage.n_vectors if k0 == 0 else 0):
        vector = vector_of(stage, i)
        clear(p, vector.total + column, u1 - u0)
        call_add_rows(p.add_rows, vector.sums + column, row, rows=p.m, vectors=u1 - u0, sums=vector.total + column)
    if stage.adds_sides:
        gradients_of_dz(me, n, p, stage, scratch, k0, k, True, True)
    else:
        gradients_of_dz(me, n, p, stage, scratch, k0, k, True, False)
        gradients_of_dz(me, n, p, stage, scratch, k0, k, False, True)


@function
def gradients_of_dz(me, n, p, stage, scratch, k0, k, of_x, of_h):
    """Add a block to the gradients of the input weights and sums, of the recurrent weights and sums, or of all."""
    item = p.item
    dz, dz_row, sums = (stage.dz_x, stage.dz_x_row, stage.db_x) if of_x else (stage.dz_h, stage.dz_h_row, stage.db_h)
    a, b_h = scratch + p.block_a, scratch + p.block_b
    a_row = (MC + p.lanes) * item  # an odd number of cache lines, to spread rows over cache sets
    n_c = (stage.n_zx if of_x else stage.n_zh) * stage.n
    c0, c1 = share(me, n, n_c, p.lanes)
    if c0 == c1:
        return
    table = stage.table if of_x else 0
    if k0 == 0:
        clear(p, sums + c0 * item, vectors_of(p, c1 - c0))
        if table:
            clear(p, table + c0 * p.n_x * item, p.n_x * vectors_of(p, c1 - c0))
    row = stage.n_operand * item
    is_joint = of_x and of_h and stage.heads == 1 and not table and stage.dw_x == stage.dw_h + row
    n_joint = p.n_x if is_joint else 0  # columns of x beside those of the operand
    b_x = b_h + k * vectors_of(p, stage.n_operand) * p.lanes * item
    for head in range(stage.heads if of_h else 0):
        packed = b_h + head * k * vectors_of(p, stage.n_head) * p.lanes * item
        h = stage.operand + head * stage.n_head * item
        pack_block(p, h, row, stage.n_head, p.x, n_joint, k0, k, packed)
    if of_x and not table and not n_joint:
        pack_block(p, 0, 0, 0, p.x, p.n_x, k0, k, b_x)
    for c in range(c0, c1, MC):
        rows = min(MC, c1 - c)
        block_of_dz(p, dz, dz_row, k0, k, c, rows, a, a_row, sums)
        if table:
            add_to_table(p, a, a_row, k0, k, table + c * p.n_x * item, rows)
        elif of_x and not n_joint:
            add_weight_gradient(p, a, a_row, rows, c, b_x, p.n_x, k, k0 == 0, stage.dw_x, stage.dw_x_row)
        if of_h:
            add_recurrent_gradient(p, stage, a, a_row, rows, c, b_h, n_joint, k, k0 == 0)
        if table and k0 + k == rows_before(p, p.n_steps, 0):
            dw, dw_row = stage.dw_x + c * stage.dw_x_row, stage.dw_x_row
            gradient_of_table(p, table + c * p.n_x * item, rows, dw, dw_row)
