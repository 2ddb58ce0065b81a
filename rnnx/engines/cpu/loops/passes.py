"""The loops over time, for Numba, and the jobs that are whole passes.

The loops are compiled once for all cells and dtypes: they compute only addresses, and call the functions of
`codegen.gemm`, `codegen.pointwise` and `codegen.copy` by address. A *job* is a function ``(me, n, descriptor)`` that
thread `me` of `n` runs; see `descriptor.fields`. Batch-parallel threads run the whole loop on their own examples,
unit-parallel ones on their own units of all examples, with a barrier in every step if any gate has a recurrent side.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage, L lanes of a vector. Indices: j examples,
u unit vectors, v vectors of gates (those of a unit vector are side by side), k terms of sums.
"""

from rnnx.engines.cpu.codegen.intrinsics import call_add_rows, call_copy, call_kernel, call_product, load, store
from rnnx.engines.cpu.descriptor.fields import DZ, KEEP, UNIT_VECTORS, ZH, ZX
from rnnx.engines.cpu.loops.examples import (
    consecutive,
    end_of,
    last_end,
    list_rows,
    move_rows,
    place_of,
    rows_before,
    share,
    share_examples,
    vectors_of,
)
from rnnx.engines.cpu.loops.gradients import add_product, clear_past_end, input_gradient, weight_gradients
from rnnx.engines.cpu.loops.packing import convert, pack_backward, pack_forward, packed_head
from rnnx.engines.cpu.loops.records import (
    HEADER_SIZE,
    argument_of,
    function,
    header_at,
    output_of,
    pass_at,
    stage_of,
    vector_of,
)
from rnnx.engines.cpu.runtime.workers import barrier


@function
def run_kernel(p, stage, arguments, z, zh, t, dz, rows, u0, u1):
    """Run the elementwise kernel of step t on listed examples, whose sides are at z and zh, or from row dz of dz on."""
    tail = stage.n % p.lanes if u1 * p.lanes > stage.n else 0
    header_at(arguments).tail = tail
    n_masked = int(tail > 0 and not stage.whole_rows)  # vectors for `kernel_tail`
    for part in range(2):
        first, vectors = (u0, u1 - u0 - n_masked) if part == 0 else (u1 - 1, n_masked)
        if vectors == 0:
            continue
        for i in range(stage.n_arguments):
            a = argument_of(stage, i)
            base = (
                z if a.side == ZX else zh if a.side == ZH else a.address + (dz * a.row if a.side == DZ else t * a.step)
            )
            store(arguments + HEADER_SIZE, i, base + first * a.vector)
        call_kernel(stage.kernel if part == 0 else stage.kernel_tail, rows, vectors, arguments)


@function
def write_rows(p, units, source, source_row, target, rows, u0, u1):
    """Copy rows to unit vectors u0 ... u1 - 1 of a state; source_row = 0 repeats one row."""
    if u0 == u1:
        return
    column = u0 * p.lanes * p.item
    call_copy(
        p.copy_masked, source=source + (column if source_row else 0), source_row=source_row, rows=rows, vectors=u1 - u0,
        tail=units % p.lanes if u1 * p.lanes > units else 0, target=target + column, target_row=units * p.item,
    )  # fmt: skip


@function
def write_past_end(p, stage, j0, j1, u0, u1):
    """Write results past the ends of examples j0 ... j1 - 1: states are kept; everything else is set to zero."""
    units, column = stage.n, u0 * p.lanes * p.item
    tail = units % p.lanes if u1 * p.lanes > units else 0
    for j in range(j0, j1 if p.lengths and u0 < u1 else j0):
        end, at = end_of(p, j), j * units * p.item + column
        rows, vectors = p.n_steps - end, u1 - u0
        for i in range(stage.n_arguments):
            a = argument_of(stage, i)
            target = a.address + end * a.step + at
            if a.past_end:
                source = target - a.step if a.past_end == KEEP else p.zeros
                call_copy(p.copy_masked, source, 0, rows, vectors, tail, target, a.step)
        for i in range(stage.n_outputs):
            step = p.m * units * p.item
            call_copy(
                p.copy_masked, p.zeros, 0, rows, vectors, tail, output_of(stage, i).target + end * step + at, step
            )


@function
def elementwise(p, stage, arguments, z, z_row, zh, zh_row, t, dz, examples, count, u0, u1):
    """Run the elementwise part of step t; z and zh are the sides in a forward pass, dz the first row in a backward
    pass.
    """
    header, row = header_at(arguments), stage.n * p.item
    header.row, header.zx_row, header.zh_row, header.examples = row, z_row, zh_row, examples
    run_kernel(p, stage, arguments, z, zh, t, dz, count, u0, u1)
    at = t * p.m * row
    for i in range(stage.n_outputs):  # the caller's copies of the states
        output = output_of(stage, i)
        move_rows(p, stage.n, output.source + at, examples, output.target + at, examples, count, u0, u1)


@function
def part_of(me, n, p):
    """Return j0, j1, u0, u1: a thread's examples, and its unit vectors, 0 and 0 for all of them.

    If threads share the units, all stages have the same number of units.
    """
    if p.unit_parallel:
        u0, u1 = share(me, n, stage_of(p, 0).unit_vectors, UNIT_VECTORS)
        return 0, p.m, u0, u1
    j0, j1 = share_examples(me, n, p)
    return j0, j1, 0, 0


@function
def input_rows(p, t, j0, j1, scratch):
    """Return the address of the rows of x of a chunk of steps from t, one after another, and their number."""
    n_steps, x = min(p.chunk, p.n_steps - t), p.x + t * p.x_step
    if p.lengths == 0:
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
def input_side(p, stage, z, z_row, x, rows, u0, u1):
    """Compute Z = W_x x + b for rows of x; indices of one-hot columns select rows of the packed W_x."""
    if stage.n_zx == 0:
        return
    size, v0, v1 = p.item * p.lanes, u0 * stage.n_zx, u1 * stage.n_zx
    bias, target = stage.bias + v0 * size, z + v0 * size
    if p.indices:
        call_copy(p.copy, bias, 0, rows, vectors=v1 - v0, tail=0, target=target, target_row=z_row)
        for r in range(rows):
            w = stage.w_x + (load(x, r) * stage.n_vectors_x + v0) * size
            call_add_rows(p.add_rows, w, 0, rows=1, vectors=v1 - v0, sums=target + r * z_row)
    else:
        call_product(
            stage.product_x, w=stage.w_x, n_vectors=stage.n_vectors_x, v0=v0, v1=v1, n_k=p.n_x, h=x, h_row=p.x_row,
            h_k=p.item, rows=rows, init=bias, init_row=0, z=target, z_row=z_row, tail=0,
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
    v0, adds = u0 * stage.n_zh, stage.adds_sides
    column = v0 * p.item * p.lanes
    call_product(
        stage.product_h, w=stage.w_h, n_vectors=stage.n_vectors_h, v0=v0, v1=u1 * stage.n_zh, n_k=stage.n_operand,
        h=h, h_row=stage.n_operand * p.item, h_k=p.item, rows=count,
        init=(z if adds else stage.bias_h) + column, init_row=zh_row if adds else 0,
        z=(z if adds else zh) + column, z_row=zh_row, tail=0,
    )  # fmt: skip


@function
def recurrent_side_of_heads(p, stage, zh, zh_row, h, rows):
    """Compute Zh = W_h h + b_h, (rows, G, n), one product per gate and head."""
    d, vectors, row = stage.n_head, vectors_of(p, stage.n_head), stage.n * p.item
    for block in range(stage.n_zh * stage.heads):
        column = block * d * p.item
        call_product(
            p.product, w=packed_head(p, stage, block), n_vectors=vectors, v0=0, v1=vectors,
            n_k=d, h=h + block % stage.heads * d * p.item, h_row=row, h_k=p.item, rows=rows,
            init=stage.bias_h + column, init_row=0, z=zh + column, z_row=zh_row, tail=d % p.lanes,
        )  # fmt: skip


@function
def forward(me, n, descriptor):
    """Run thread me's part of a forward pass."""
    p = pass_at(descriptor)
    if p.pack:
        for i in range(p.n_stages):
            pack_forward(me, n, p, stage_of(p, i))
    convert(me, n, p)
    barrier(n, p)
    j0, j1, u0, u1 = part_of(me, n, p)
    scratch = p.scratch + me * p.scratch_size
    examples = scratch + p.examples
    x = rows = before = count = 0  # `before`: rows of a chunk before step t
    for t in range(last_end(p, j0, j1)):
        if p.lengths or t == 0:
            count = list_rows(p, t, 1, j0, j1, examples)
        if t % p.chunk == 0:
            x, rows = input_rows(p, t, j0, j1, scratch)
            before = 0
        for i in range(p.n_stages):
            stage = stage_of(p, i)
            u1 = u1 if p.unit_parallel else stage.unit_vectors
            z_row, zh_row = stage.n_vectors_x * p.item * p.lanes, stage.n_vectors_h * p.item * p.lanes
            # The input sides of all stages, a chunk each, are side by side, followed by zh.
            z, zh = scratch + p.z + i * p.z_size, scratch + p.z + p.n_stages * p.z_size
            if t % p.chunk == 0:
                input_side(p, stage, z, z_row, x, rows, u0, u1)
            z += before * z_row
            recurrent_side(p, stage, z, zh, zh_row, t, examples, count, scratch + p.rows, u0, u1)
            elementwise(p, stage, scratch + p.kernel_arguments, z, z_row, zh, zh_row, t, 0, examples, count, u0, u1)
            if p.waits:
                barrier(n, p)
        before += count
    for i in range(p.n_stages):
        stage = stage_of(p, i)
        write_past_end(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)


@function
def recurrent_gradient_of_heads(p, stage, dz, rows, out, out_row):
    """Add dz_h W_h to rows of the cotangents of the operand, one product per gate and head."""
    d, vectors = stage.n_head, vectors_of(p, stage.n_head)
    for block in range(stage.n_zh * stage.heads):
        w, to = packed_head(p, stage, block), out + block % stage.heads * d * p.item
        of_block = dz + block * d * p.item
        add_product(p, of_block, stage.dz_h_row, rows, d, w, d, 0, vectors, to, out_row, to, out_row)


@function
def recurrent_gradient(p, stage, first, examples, count, buffer, u0, u1):
    """Add dz_h W_h, for rows of dz from `first`, to units of the listed examples' cotangents of the operand."""
    n_k, units = stage.n_zh * stage.n, stage.n_operand
    if n_k == 0 or u0 == u1:
        return
    row, dz = units * p.item, stage.dz_h + first * stage.dz_h_row
    out = consecutive(p, units, stage.d_operand, examples, count, buffer, u0, u1)
    if stage.heads == 1:
        add_product(p, dz, stage.dz_h_row, count, n_k, stage.w_h, units, u0, u1, out, row, out, row)
    else:
        recurrent_gradient_of_heads(p, stage, dz, count, out, row)
    if out == buffer:
        move_rows(p, units, buffer, 0, stage.d_operand, examples, count, u0, u1)


@function
def clear_sums(p, stage, j0, j1, u0, u1):
    """Set the sums over time for vectors of parameters to zero."""
    for i in range(stage.n_vectors):
        row = stage.n * p.item
        write_rows(p, stage.n, p.zeros, 0, vector_of(stage, i).sums + j0 * row, j1 - j0, u0, u1)


@function
def list_examples(p, t, dz, j0, j1, examples):
    """List the examples of step t, and note the positions of their rows, which begin with row dz of dz."""
    count = list_rows(p, t, 1, j0, j1, examples)
    for r in range(count if p.lengths else 0):
        store(p.positions, dz + r, t * p.m + load(examples, r))
    return count


@function
def backward(me, n, descriptor):
    """Run thread me's part of a backward pass."""
    p = pass_at(descriptor)
    for i in range(p.n_stages):
        pack_backward(me, n, p, stage_of(p, i))
    convert(me, n, p)
    barrier(n, p)
    j0, j1, u0, u1 = part_of(me, n, p)
    scratch = p.scratch + me * p.scratch_size
    examples, buffer, count, last = scratch + p.examples, scratch + p.rows, 0, last_end(p, j0, j1)
    for i in range(p.n_stages):
        stage = stage_of(p, i)
        clear_sums(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)
    for t in range(last - 1, -1, -1):
        dz = rows_before(p, t, j0)
        if p.lengths or t == last - 1:
            count = list_examples(p, t, dz, j0, j1, examples)
        for i in range(p.n_stages - 1, -1, -1):
            stage = stage_of(p, i)
            arguments, x_row, h_row = scratch + p.kernel_arguments, stage.dz_x_row, stage.dz_h_row
            u1 = u1 if p.unit_parallel else stage.unit_vectors
            elementwise(p, stage, arguments, 0, x_row, 0, h_row, t, dz, examples, count, u0, u1)
            if p.waits:
                barrier(n, p)
            end = u1 if p.unit_parallel else stage.operand_vectors
            recurrent_gradient(p, stage, dz, examples, count, buffer, u0, end)
            if not p.flat_dx:
                input_gradient(p, stage, dz, count, buffer)
    barrier(n, p)
    r0, r1 = share(me, n, rows_before(p, p.n_steps, 0), 1)
    for i in range(p.n_stages - 1, -1, -1):
        stage = stage_of(p, i)
        weight_gradients(me, n, p, stage, scratch)
        if p.flat_dx:
            input_gradient(p, stage, r0, r1 - r0, buffer)
        write_past_end(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)
    clear_past_end(p, *share(me, n, p.m, 1))
