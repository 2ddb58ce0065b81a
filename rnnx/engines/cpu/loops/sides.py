"""The products of a forward pass, for Numba. See `passes` for the conventions."""

from rnnx.engines.cpu.codegen.intrinsics import call_add_rows, call_copy, call_loss, call_product, load, store
from rnnx.engines.cpu.loops.examples import consecutive, list_rows, place_of, vectors_of
from rnnx.engines.cpu.loops.packing import pack_rows, packed_head
from rnnx.engines.cpu.loops.records import function


@function
def input_rows(p, t, j0, j1, scratch):
    """Return the address of the rows of x of a chunk of steps from t, one after another, and their number."""
    n_steps, x = min(p.chunk, p.n_steps - t), p.x + t * p.x_step
    if p.lengths == 0 and (n_steps == 1 or j1 - j0 == p.m):
        return x + j0 * p.x_row, (j1 - j0) * n_steps
    rows, buffer = scratch + p.x_list, scratch + p.x_rows
    count = list_rows(p, t, n_steps, j0, j1, rows)
    if not p.indices:
        return consecutive(p, p.n_x, x, rows, count, buffer, 0, vectors_of(p, p.n_x)), count
    place = place_of(rows, count, x, p.x_row, buffer)
    for r in range(count if place == buffer else 0):
        store(buffer, r, load(x, load(rows, r)))
    return place, count


@function
def input_side(p, stage, z, z_row, t, j0, j1, u0, u1, scratch):
    """Compute Z = W_x x + b for a chunk of steps from t; indices of one-hot columns select rows of the packed W_x."""
    if stage.n_zx == 0:
        return
    x, rows = input_rows(p, t, j0, j1, scratch)
    size, v0, v1 = p.item * p.lanes, u0 * stage.n_zx, min(u1 * stage.n_zx, stage.n_vectors_x)
    bias, target = stage.bias + v0 * size, z + v0 * size
    if p.indices:
        call_copy(p.copy, bias, 0, rows, vectors=v1 - v0, tail=0, target=target, target_row=z_row)
        for r in range(rows):
            w = stage.w_x + (load(x, r) * stage.n_vectors_x + v0) * size
            call_add_rows(p.add_rows, w, 0, rows=1, vectors=v1 - v0, sums=target + r * z_row)
    else:
        call_product(
            stage.product_x, w=stage.w_x, n_vectors=stage.n_vectors_x, v0=v0, v1=v1, n_k=p.n_x, h=x, h_row=p.x_row,
            h_k=p.item, rows=rows, init=bias, init_row=0, z=target, z_row=z_row, tail=0, back=0,
        )  # fmt: skip


@function
def recurrent_side(p, stage, z, zh, zh_row, t, examples, count, buffer, u0, u1):
    """Compute Zh = W_h h + b_h, or add W_h h to z."""
    if stage.n_zh == 0:
        return
    operand = stage.operand + t * stage.operand_step
    h = consecutive(p, stage.n_operand, operand, examples, count, buffer, 0, stage.operand_vectors)
    if stage.heads > 1:
        recurrent_side_of_heads(p, stage, zh, zh_row, h, count)
        return
    v0, v1, adds = u0 * stage.n_zh, min(u1 * stage.n_zh, stage.n_vectors_h), stage.adds_sides
    column = v0 * p.item * p.lanes
    init, init_row, out = (z if adds else stage.bias_h), zh_row if adds else 0, (z if adds else zh)
    call_product(
        stage.product_h, w=stage.w_h, n_vectors=stage.n_vectors_h, v0=v0, v1=v1, n_k=stage.n_operand,
        h=h, h_row=stage.n_operand * p.item, h_k=p.item, rows=count,
        init=init + column, init_row=init_row, z=out + column, z_row=zh_row, tail=0, back=t % 2,
    )  # fmt: skip


@function
def recurrent_side_of_heads(p, stage, zh, zh_row, h, rows):
    """Compute Zh = W_h h + b_h, (rows, G, n), one product per gate and head."""
    d, vectors, row = stage.n_head, vectors_of(p, stage.n_head), stage.n * p.item
    for block in range(stage.n_zh * stage.heads):
        column = block * d * p.item
        call_product(
            stage.product_h, w=packed_head(stage, block), n_vectors=vectors, v0=0, v1=vectors,
            n_k=d, h=h + block % stage.heads * d * p.item, h_row=row, h_k=p.item, rows=rows,
            init=stage.bias_h + column, init_row=0, z=zh + column, z_row=zh_row, tail=d % p.lanes, back=0,
        )  # fmt: skip


@function
def output_layer(p, dense):
    """Compute y = softmax(W h + b) for all examples of a single step."""
    vectors, row, row_of_w = vectors_of(p, dense.columns), dense.columns * p.item, dense.n_k * p.item
    for v in range(vectors):
        count = min(p.lanes, dense.columns - v * p.lanes)
        w = dense.w + v * p.lanes * row_of_w
        pack_rows(p, vectors, v, 0, count, w, row_of_w, dense.n_k, dense.packed, p.nv)
    call_product(
        p.product, w=dense.packed, n_vectors=vectors, v0=0, v1=vectors, n_k=dense.n_k, h=dense.h,
        h_row=row_of_w, h_k=p.item, rows=p.m, init=dense.bias, init_row=0, z=dense.y, z_row=row,
        tail=dense.columns % p.lanes, back=0,
    )  # fmt: skip
    call_loss(
        dense.kernel, n_steps=p.m, m=1, n=dense.columns, y=dense.y, target=dense.y, lengths=dense.lengths,
        gradient=dense.y, count=dense.count, values=dense.values, target_step=0, target_row=0, weights=0,
    )  # fmt: skip
