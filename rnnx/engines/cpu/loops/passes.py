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
from rnnx.engines.cpu.codegen.intrinsics import call_add_rows, call_copy, call_kernel, call_product, load, store
from rnnx.engines.cpu.descriptor.fields import KEEP, UNIT_VECTORS, ZH, ZX
from rnnx.engines.cpu.loops.gradients import add_product, clear_past_end, input_gradient, weight_gradients
from rnnx.engines.cpu.loops.packing import convert, pack_backward, pack_forward, packed_head, share, vectors_of
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


@function
def run_kernel(p, stage, arguments, z, zh, t, j, rows, u0, u1):
    """Run the elementwise kernel of step t on `rows` examples from j, whose sides are at z and zh."""
    tail = stage.n % p.lanes if u1 * p.lanes > stage.n else 0
    header_at(arguments).tail = tail
    n_masked = int(tail > 0 and not stage.whole_rows)  # vectors for `kernel_tail`
    for part in range(2):
        first, vectors = (u0, u1 - u0 - n_masked) if part == 0 else (u1 - 1, n_masked)
        if vectors == 0:
            continue
        for i in range(stage.n_arguments):
            a = argument_of(stage, i)
            base = z if a.side == ZX else zh if a.side == ZH else a.address + t * a.step + j * a.row
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
def write_past_end(p, stage, t, j, rows, u0, u1):
    """Write results at step t for examples past their end: states are kept; everything else is set to zero."""
    row = stage.n * p.item
    for i in range(stage.n_arguments):
        a = argument_of(stage, i)
        target = a.address + t * a.step + j * a.row
        if a.past_end == KEEP:
            write_rows(p, stage.n, target - a.step, row, target, rows, u0, u1)
        elif a.past_end:
            write_rows(p, stage.n, p.zeros, 0, target, rows * (a.row // row), u0, u1)


@function
def equal_run(p, t, j0, j1):
    """Return the end of a run of examples from j0, all active or all past their end at step t, and whether active."""
    if p.lengths == 0:
        return j1, True
    active = t < load(p.lengths, j0)
    j = j0 + 1
    while j < j1 and (t < load(p.lengths, j)) == active:
        j += 1
    return j, active


@function
def elementwise(p, stage, arguments, z, z_row, zh, zh_row, t, j0, j1, u0, u1):
    """Run the elementwise part of step t; z and zh are the sides in a forward pass."""
    header, row = header_at(arguments), stage.n * p.item
    header.row, header.zx_row, header.zh_row = row, z_row, zh_row
    j = j0
    while j < j1:
        end, active = equal_run(p, t, j, j1)
        if active:
            at, at_h = (j - j0) * z_row, (j - j0) * zh_row
            run_kernel(p, stage, arguments, z + at, zh + at_h, t, j, end - j, u0, u1)
        else:
            write_past_end(p, stage, t, j, end - j, u0, u1)
        at = (t * p.m + j) * row
        for i in range(stage.n_outputs):  # the caller's copies of the states
            output = output_of(stage, i)
            source, source_row = (output.source + at, row) if active else (p.zeros, 0)
            write_rows(p, stage.n, source, source_row, output.target + at, end - j, u0, u1)
        j = end


@function
def part_of(me, n, p):
    """Return j0, j1, u0, u1: a slice's examples, and its unit vectors, 0 and 0 for all of them.

    If slices share the units, all stages have the same number of units.
    """
    if p.unit_parallel:
        u0, u1 = share(me, n, stage_of(p, 0).unit_vectors, UNIT_VECTORS)
        return 0, p.m, u0, u1
    j0, j1 = share(me, n, p.m, 1)
    return j0, j1, 0, 0


@function
def input_side(p, stage, z, z_row, t, n_steps, j0, j1, u0, u1):
    """Compute Z = W_x x + b for n_steps steps from t; indices of one-hot columns select rows of the packed W_x."""
    if stage.n_zx == 0:
        return
    size, rows, times = p.item * p.lanes, j1 - j0, n_steps
    if rows == p.m:
        rows, times = rows * n_steps, 1
    v0, v1 = u0 * stage.n_zx, u1 * stage.n_zx
    bias = stage.bias + v0 * size
    for i in range(times):
        x = p.x + (t + i) * p.x_step + j0 * p.x_row
        target = z + i * rows * z_row + v0 * size
        if p.indices:
            call_copy(p.copy, bias, 0, rows, vectors=v1 - v0, tail=0, target=target, target_row=z_row)
            for r in range(rows):
                w = stage.w_x + (load(x, r) * stage.n_vectors_x + v0) * size
                call_add_rows(p.add_rows, w, 0, rows=1, vectors=v1 - v0, sums=target + r * z_row)
        else:
            call_product(
                stage.product_x, w=stage.w_x, n_vectors=stage.n_vectors_x, v0=v0, v1=v1, n_k=p.n_x, h=x,
                h_row=p.x_row, h_k=p.item, rows=rows, init=bias, init_row=0, z=target, z_row=z_row, tail=0,
            )  # fmt: skip


@function
def recurrent_side(p, stage, z, zh, zh_row, t, j0, j1, u0, u1):
    """Compute Zh = W_h h + b_h, or add W_h h to z."""
    if stage.n_zh == 0:
        return
    if stage.heads > 1:
        recurrent_side_of_heads(p, stage, zh, zh_row, t, j0, j1)
        return
    row, v0, adds = stage.n_operand * p.item, u0 * stage.n_zh, stage.adds_sides
    column = v0 * p.item * p.lanes
    call_product(
        stage.product_h, w=stage.w_h, n_vectors=stage.n_vectors_h, v0=v0, v1=u1 * stage.n_zh, n_k=stage.n_operand,
        h=stage.operand + t * stage.operand_step + j0 * row, h_row=row, h_k=p.item, rows=j1 - j0,
        init=(z if adds else stage.bias_h) + column, init_row=zh_row if adds else 0,
        z=(z if adds else zh) + column, z_row=zh_row, tail=0,
    )  # fmt: skip


@function
def recurrent_side_of_heads(p, stage, zh, zh_row, t, j0, j1):
    """Compute Zh = W_h h + b_h, (rows, G, n), one product per gate and head."""
    d, vectors, row = stage.n_head, vectors_of(p, stage.n_head), stage.n * p.item
    h = stage.operand + t * stage.operand_step + j0 * row
    for block in range(stage.n_zh * stage.heads):
        column = block * d * p.item
        call_product(
            stage.product_h, w=packed_head(stage, block), n_vectors=vectors, v0=0, v1=vectors,
            n_k=d, h=h + block % stage.heads * d * p.item, h_row=row, h_k=p.item, rows=j1 - j0,
            init=stage.bias_h + column, init_row=0, z=zh + column, z_row=zh_row, tail=d % p.lanes,
        )  # fmt: skip


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
    first, end = share(section - 1, p.loop_sections, p.n_steps * p.n_stages, 1)
    for step in range(first, end):
        t, i = step // p.n_stages, step % p.n_stages
        stage = stage_of(p, i)
        u1 = u1 if p.unit_parallel else stage.unit_vectors
        z_row, zh_row = stage.n_vectors_x * p.item * p.lanes, stage.n_vectors_h * p.item * p.lanes
        # The input sides of all stages, a chunk each, are side by side, followed by zh.
        z, zh = scratch + p.z + i * p.z_size, scratch + p.z + p.n_stages * p.z_size
        if t % p.chunk == 0:
            input_side(p, stage, z, z_row, t, min(p.chunk, p.n_steps - t), j0, j1, u0, u1)
        z += t % p.chunk * (j1 - j0) * z_row
        recurrent_side(p, stage, z, zh, zh_row, t, j0, j1, u0, u1)
        elementwise(p, stage, scratch + p.kernel_arguments, z, z_row, zh, zh_row, t, j0, j1, u0, u1)


@function
def recurrent_gradient_of_heads(p, stage, dz, rows, out, out_row):
    """Add dz_h W_h to rows of the cotangents of the operand, one product per gate and head."""
    d, vectors = stage.n_head, vectors_of(p, stage.n_head)
    for block in range(stage.n_zh * stage.heads):
        w, to = packed_head(stage, block), out + block % stage.heads * d * p.item
        of_block = dz + block * d * p.item
        add_product(p, of_block, stage.dz_h_row, rows, d, w, d, 0, vectors, to, out_row, to, out_row)


@function
def recurrent_gradient(p, stage, t, j0, j1, u0, u1):
    """Add dz_h W_h to units of the cotangents of the operand, except past an example's end: zero times infinity is
    NaN.
    """
    n_k, units, j = stage.n_zh * stage.n, stage.n_operand, j0
    row = units * p.item
    while n_k and j < j1:
        end, active = equal_run(p, t, j, j1)
        if active:
            dz, out = stage.dz_h + (t * p.m + j) * stage.dz_h_row, stage.d_operand + j * row
            if stage.heads == 1:
                add_product(p, dz, stage.dz_h_row, end - j, n_k, stage.w_h, units, u0, u1, out, row, out, row)
            else:
                recurrent_gradient_of_heads(p, stage, dz, end - j, out, row)
        j = end


@function
def clear_sums(p, stage, j0, j1, u0, u1):
    """Set the sums over time for vectors of parameters to zero."""
    for i in range(stage.n_vectors):
        row = stage.n * p.item
        write_rows(p, stage.n, p.zeros, 0, vector_of(stage, i).sums + j0 * row, j1 - j0, u0, u1)


@function
def backward_steps(section, me, n, p):
    """Run some steps of the stages in reverse order. Between sections is the elementwise part of a step."""
    j0, j1, u0, u1 = part_of(me, n, p)
    scratch = p.scratch + me * p.scratch_size
    total = p.n_steps * p.n_stages
    first, end = share(section - 1, p.loop_sections, total + 1, 1)
    for i in range(p.n_stages if section == 1 else 0):
        stage = stage_of(p, i)
        clear_sums(p, stage, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors)
    for step in range(first, end):
        if step > 0:
            t, i = (total - step) // p.n_stages, (total - step) % p.n_stages
            stage = stage_of(p, i)
            recurrent_gradient(p, stage, t, j0, j1, u0, u1 if p.unit_parallel else stage.operand_vectors)
            if not p.flat_dx:
                input_gradient(p, stage, t * p.m + j0, j1 - j0)
        if step < total:
            t, i = (total - 1 - step) // p.n_stages, (total - 1 - step) % p.n_stages
            stage = stage_of(p, i)
            arguments, x_row, h_row = scratch + p.kernel_arguments, stage.dz_x_row, stage.dz_h_row
            elementwise(
                p, stage, arguments, 0, x_row, 0, h_row, t, j0, j1, u0, u1 if p.unit_parallel else stage.unit_vectors
            )


@function
def backward(section, me, n, descriptor):
    """Run a section of slice `me` of a backward pass: the preparation, some steps, or a block of the gradients."""
    p = pass_at(descriptor)
    if section == 0:
        for i in range(p.n_stages):
            pack_backward(me, n, p, stage_of(p, i))
        convert(me, n, p)
    elif section <= p.loop_sections:
        backward_steps(section, me, n, p)
    else:
        n_blocks = -(-p.n_steps * p.m // KC)
        block = section - 1 - p.loop_sections
        stage, k0 = stage_of(p, p.n_stages - 1 - block // n_blocks), block % n_blocks * KC
        weight_gradients(me, n, p, stage, p.scratch + me * p.scratch_size, k0)
        r0, r1 = share(me, n, min(KC, p.n_steps * p.m - k0), 1)
        if p.flat_dx:
            input_gradient(p, stage, k0 + r0, r1 - r0)
        if block // n_blocks == p.n_stages - 1:
            clear_past_end(p, k0 + r0, k0 + r1)
