"""The loops over time, for Numba, and the jobs that are whole passes.

The loops are compiled once for all cells and dtypes: they compute only addresses, and call the functions of
`codegen.gemm`, `codegen.pointwise` and `codegen.copy` by address. A *job* is a function ``(section, me, n,
descriptor)`` that runs a section of slice `me` of `n`; see `runtime.workers` and `descriptor.fields`. Batch-parallel
slices are examples, unit-parallel ones units of all examples. A slice has these sections: the preparation, the loop
over time in `loop_sections` parts, and, in a backward pass, the gradients of the parameters by stages and blocks of k.
If slices wait for each other's units, the loop has a section for every step of a stage.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage, L lanes of a vector. Indices: j examples,
u unit vectors, v vectors of gates (those of a unit vector are side by side), k terms of sums.
"""

from rnnx.engines.cpu.codegen.gemm import KC
from rnnx.engines.cpu.codegen.intrinsics import call_copy, call_kernel, load, store
from rnnx.engines.cpu.descriptor.fields import DZ, ZH, ZX
from rnnx.engines.cpu.loops.examples import (
    consecutive,
    copy_final,
    copy_output,
    list_rows,
    move_rows,
    next_end,
    rows_before,
    rows_between,
    share,
    share_examples,
    write_past_end,
)
from rnnx.engines.cpu.loops.exchange import claim_next_operand, fetch
from rnnx.engines.cpu.loops.gradients import add_products, clear_past_end, input_gradient, weight_gradients
from rnnx.engines.cpu.loops.packing import convert, convert_block, pack_backward, pack_forward, packed_head
from rnnx.engines.cpu.loops.products import add_product
from rnnx.engines.cpu.loops.records import (
    HEADER_SIZE,
    argument_of,
    dense_of,
    function,
    header_at,
    output_of,
    pass_at,
    stage_of,
    vector_of,
)
from rnnx.engines.cpu.loops.sides import input_side, output_layer, recurrent_side


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
def elementwise(p, stage, arguments, z, z_row, zh, zh_row, t, dz, examples, count, u0, u1):
    """Run the elementwise part of step t; z and zh are the sides in a forward pass, dz the first row in a backward
    pass.
    """
    header, row = header_at(arguments), stage.n * p.item
    header.row, header.zx_row, header.zh_row, header.examples = row, z_row, zh_row, examples
    run_kernel(p, stage, arguments, z, zh, t, dz, count, u0, u1)
    for i in range(stage.n_outputs):  # the caller's copies of the states
        copy_output(p, output_of(stage, i), stage.n, t, examples, count, u0, u1)


@function
def part_of(me, n, p):
    """Return j0, j1, u0, u1: a slice's examples, and its unit vectors, 0 and 0 for all of them.

    If slices share the units, all stages have the same number of units.
    """
    if p.unit_parallel:
        u0, u1 = share(me, n, stage_of(p, 0).unit_vectors, p.unit_parallel)
        return 0, p.m, u0, u1
    j0, j1 = share_examples(me, n, p)
    return j0, j1, 0, 0


@function
def forward(section, me, n, descriptor):
    """Run a section of slice `me` of a forward pass: the preparation, or some steps of the stages."""
    p = pass_at(descriptor)
    if section == 0:
        for i in range(p.n_stages):
            pack_forward(me, n, p, stage_of(p, i))
        convert(me, n, p)
        return
    j0, j1, u0, u1 = part_of(me, n, p)
    scratch = p.scratch + me * p.scratch_size
    examples, count, until = scratch + p.examples, 0, -1
    first, end = share(section - 1, p.loop_sections, p.n_steps * p.n_stages, 1)
    before = rows_between(p, first // p.n_stages // p.chunk * p.chunk, first // p.n_stages, j0, j1)  # in this chunk
    for step in range(first, end):
        t, i = step // p.n_stages, step % p.n_stages
        stage = stage_of(p, i)
        u1 = u1 if p.unit_parallel else stage.unit_vectors
        if t >= until:
            count, until = list_rows(p, t, 1, j0, j1, examples), next_end(p, t, j0, j1)
        if count == 0:
            continue
        before = before if t % p.chunk else 0
        z_row, zh_row = stage.n_vectors_x * p.item * p.lanes, stage.n_vectors_h * p.item * p.lanes
        # The input sides of all stages, a chunk each, are side by side, followed by zh.
        z, zh = scratch + p.z + i * p.z_size, scratch + p.z + p.n_stages * p.z_size
        if p.x_block and i == 0 and t % p.x_block == 0:
            convert_block(p, t, j0, j1, scratch)
        if t % p.chunk == 0:
            input_side(p, stage, z, z_row, t, j0, j1, u0, u1, scratch)
        z += before * z_row
        if p.unit_parallel:
            claim_next_operand(p, step, u0, u1)
        recurrent_side(p, stage, z, zh, zh_row, t, examples, count, scratch + p.rows, u0, u1)
        elementwise(p, stage, scratch + p.kernel_arguments, z, z_row, zh, zh_row, t, 0, examples, count, u0, u1)
        before += count if i == p.n_stages - 1 else 0
    for i in range(p.n_stages if section == p.loop_sections else 0):
        stage = stage_of(p, i)
        u = u1 if p.unit_parallel else stage.unit_vectors
        copy_final(p, stage, j0, j1, u0, u)
        write_past_end(p, stage, j0, j1, u0, u)
    for i in range(p.n_dense if section == p.loop_sections else 0):
        output_layer(p, dense_of(p, i), j0, j1, scratch)


@function
def recurrent_gradient_of_heads(p, stage, dz, rows, out, out_row):
    """Add dz_h W_h to rows of the cotangents of the operand, one product per gate and head."""
    d = stage.n_head
    for block in range(stage.n_zh * stage.heads):
        w, to = packed_head(stage, block), out + block % stage.heads * d * p.item
        of_block = dz + block * d * p.item
        add_product(p, p.product, w, d, d, of_block, stage.dz_h_row, p.item, rows, to, out_row, to, out_row)


@function
def recurrent_gradient(p, stage, t, first, examples, count, buffer, u0, u1):
    """Add dz_h W_h, for rows of dz from `first`, to units of the listed examples' cotangents of the operand."""
    units = stage.n_operand
    if stage.n_zh == 0 or u0 == u1:
        return
    row, dz = units * p.item, stage.dz_h + first * stage.dz_h_row
    if p.unit_parallel:
        fetch(dz, count * stage.dz_h_row)
    out = consecutive(p, units, stage.d_operand, examples, count, buffer, u0, u1)
    if stage.heads == 1:
        add_products(p, stage, False, dz, stage.dz_h_row, count, units, u0, u1, out, row, out, t % 2)
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
def backward_steps(section, me, n, p):
    """Run some steps of the stages in reverse order. Between sections is the elementwise part of a step."""
    j0, j1, u0, u1 = part_of(me, n, p)
    scratch = p.scratch + me * p.scratch_size
    examples, buffer, count, dz = scratch + p.examples, scratch + p.rows, j1 - j0, 0
    total = p.n_steps * p.n_stages
    first, end = share(section - 1, p.loop_sections, total + 1, 1)
    for i in range(p.n_stages if section == 1 else 0):
        stage = stage_of(p, i)
        clear_sums(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)
    for step in range(2 * first, 2 * end):  # the rest of a step, or the elementwise part of the next
        at = total - (step + 1) // 2
        if at == total or at < 0:
            continue
        t, stage = at // p.n_stages, stage_of(p, at % p.n_stages)
        if step % 2 or step == 2 * first:
            dz = rows_before(p, t, j0)
            if p.lengths or step == 1:
                count = list_examples(p, t, dz, j0, j1, examples)
        if count == 0:
            continue
        if step % 2:
            arguments, x_row, h_row = scratch + p.kernel_arguments, stage.dz_x_row, stage.dz_h_row
            u = u1 if p.unit_parallel else stage.unit_vectors
            elementwise(p, stage, arguments, 0, x_row, 0, h_row, t, dz, examples, count, u0, u)
        else:
            u = u1 if p.unit_parallel else stage.operand_vectors
            recurrent_gradient(p, stage, t, dz, examples, count, buffer, u0, u)
            if not p.flat_dx:
                input_gradient(p, stage, dz, count, buffer)
    for i in range(p.n_stages if section == p.loop_sections else 0):
        stage = stage_of(p, i)
        write_past_end(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)


@function
def backward(section, me, n, descriptor):
    """Run a section of slice `me` of a backward pass: the preparation, some steps, or a block of the gradients."""
    p = pass_at(descriptor)
    if section == 0:
        for i in range(p.n_stages):
            pack_backward(me, n, p, stage_of(p, i))
        convert(me, n, p)
        clear_past_end(p, *share(me, n, p.m, 1))
    elif section <= p.loop_sections:
        backward_steps(section, me, n, p)
    else:
        n_blocks, scratch = -(-p.n_steps * p.m // KC), p.scratch + me * p.scratch_size
        block = section - 1 - p.loop_sections
        stage, k0 = stage_of(p, p.n_stages - 1 - block // n_blocks), block % n_blocks * KC
        k = min(KC, rows_before(p, p.n_steps, 0) - k0)
        if me % p.per_thread == 0 and (k > 0 or k0 == 0):  # with lengths, there may be fewer blocks, but one
            part, parts = me // p.per_thread, n // p.per_thread  # one for each thread: each packs the rows of x again
            weight_gradients(part, parts, p, stage, scratch, k0, k)
            r0, r1 = share(part, parts, k, 1)
            if p.flat_dx:
                input_gradient(p, stage, k0 + r0, r1 - r0, scratch + p.rows)
