"""The products of a forward pass, for Numba. See `passes` for the conventions."""

from rnnx.engines.cpu.codegen.intrinsics import (
    call_add_rows,
    call_copy,
    call_direct,
    call_loss,
    call_product,
    load,
    store,
)
from rnnx.engines.cpu.loops.examples import consecutive, list_rows, place_of, vectors_of
from rnnx.engines.cpu.loops.exchange import fetch
from rnnx.engines.cpu.loops.packing import pack_rows, packed_head
from rnnx.engines.cpu.loops.products import add_product
from rnnx.engines.cpu.loops.records import function, gate_of


@function
def input_rows(p, t, j0, j1, scratch):
    """Return the address of the rows of x of a chunk of steps from t, one after another, and their number."""
    n_steps, x = min(p.chunk, p.n_steps - t), p.x + t * p.x_step
    if p.x_block:
        return scratch + p.x_rows + t % p.x_block * (j1 - j0) * p.x_row, (j1 - j0) * n_steps
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
def direct_side(p, stage, of_x, h, h_row, n_k, rows, init, init_row, z, z_row, u0, u1):
    """Compute Z = init + W h, the input or recurrent side, of unit vectors u0 ... u1 - 1, from weights as they are
    given.
    """
    size, n_gates = p.item * p.lanes, stage.n_zx if of_x else stage.n_zh
    for g in range(n_gates):
        gate = gate_of(stage, stage.n_gates - n_gates + g if of_x else g)
        w, w_row = (gate.w_x, gate.w_x_row) if of_x else (gate.w_h, gate.w_h_row)
        u = u0
        while u < u1:
            count = columns_at(p, stage.n, u, u1)
            at = (u - u0) * n_gates * size + g * min(count, p.lanes) * p.item  # as biases are packed
            call_direct(
                p.direct, w=w + u * p.lanes * w_row, w_row=w_row, count=count, next=n_gates * size, n_k=n_k, h=h,
                h_row=h_row, rows=rows, init=init + at, init_row=init_row, z=z + at, z_row=z_row,
            )  # fmt: skip
            u += 1 + (count > p.lanes)


@function
def columns_at(p, columns, v, v1):
    """Return the number of columns of vector v, or of two whole vectors, if the next one is before v1, too."""
    left = columns - v * p.lanes
    return 2 * p.lanes if v + 1 < v1 and left >= 2 * p.lanes else min(left, p.lanes)


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
    elif p.direct:
        direct_side(p, stage, True, x, p.x_row, p.n_x, rows, bias, 0, target, z_row, u0, u1)
    else:
        call_product(
            stage.product_x, w=stage.w_x, n_vectors=stage.n_vectors_x, v0=v0, v1=v1, n_k=p.n_x, h=x, h_row=p.x_row,
            h_k=p.item, rows=rows, init=bias, init_row=0, z=target, z_row=z_row, tail=0, back=0, w_row=0,
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
    if p.unit_parallel:
        fetch(h, count * stage.n_operand * p.item)
    v0, v1, adds = u0 * stage.n_zh, min(u1 * stage.n_zh, stage.n_vectors_h), stage.adds_sides
    column = v0 * p.item * p.lanes
    init, init_row, out = (z if adds else stage.bias_h) + column, zh_row if adds else 0, (z if adds else zh) + column
    if p.direct:
        h_row = stage.n_operand * p.item
        direct_side(p, stage, False, h, h_row, stage.n_operand, count, init, init_row, out, zh_row, u0, u1)
        return
    call_product(
        stage.product_h, w=stage.w_h, n_vectors=stage.n_vectors_h, v0=v0, v1=v1, n_k=stage.n_operand,
        h=h, h_row=stage.n_operand * p.item, h_k=p.item, rows=count,
        init=init, init_row=init_row, z=out, z_row=zh_row, tail=0, back=t % 2, w_row=0,
    )  # fmt: skip


@function
def recurrent_side_of_heads(p, stage, zh, zh_row, h, rows):
    """Compute Zh = W_h h + b_h, (rows, G, n), one product per gate and head."""
    d, row = stage.n_head, stage.n * p.item
    for block in range(stage.n_zh * stage.heads):
        column, of_head = block * d * p.item, h + block % stage.heads * d * p.item
        w, bias = packed_head(stage, block), stage.bias_h + column
        add_product(p, stage.product_h, w, d, d, of_head, row, p.item, rows, bias, 0, zh + column, zh_row)


@function
def output_layer(p, dense, j0, j1, scratch):
    """Compute y = softmax(W h + b) for examples j0 ... j1 - 1 of a single step."""
    vectors, row, rows = vectors_of(p, dense.columns), dense.columns * p.item, j1 - j0
    w_row, size = dense.n_k * p.item, p.lanes * p.item
    h, y, packed, v = dense.h + j0 * w_row, dense.y + j0 * row, scratch + p.y_packed, 0
    while v < vectors:
        count, w = columns_at(p, dense.columns, v, vectors), dense.w + v * p.lanes * w_row
        if p.direct:
            call_direct(
                p.direct, w=w, w_row=w_row, count=count, next=size, n_k=dense.n_k, h=h, h_row=w_row, rows=rows,
                init=dense.bias + v * size, init_row=0, z=y + v * size, z_row=row,
            )  # fmt: skip
            v += 1 + (count > p.lanes)
        else:
            pack_rows(p, vectors, v, 0, min(count, p.lanes), w, w_row, dense.n_k, packed, p.nv)
            v += 1
    if not p.direct:
        columns, n_k, bias = dense.columns, dense.n_k, dense.bias
        add_product(p, p.product, packed, columns, n_k, h, w_row, p.item, rows, bias, 0, y, row)
    lengths = scratch + p.y_count
    store(lengths, 0, rows)
    call_loss(
        dense.kernel, n_steps=rows, m=1, n=dense.columns, y=y, target=y, lengths=lengths, gradient=y,
        count=dense.count, values=scratch + p.y_values, target_step=0, target_row=0, weights=0,
    )  # fmt: skip
