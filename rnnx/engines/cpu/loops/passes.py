"""The loops of the compiled engine, for Numba: one step, and the jobs that are the passes.

They know neither cell nor dtype: all they handle is integers, which are counts, addresses and strides in bytes;
the arithmetic is in functions that they call by address (`gemm`, `pointwise`, `copy`). So they are compiled once
for all. A *job* is a function ``(me, n, p)`` that thread `me` of `n` runs; `p` is the address of a plan (`fields`).

Two ways to share a job: *sliced*, each thread runs the whole loop on examples of its own; and *wide*, each thread
runs it on units of its own, all examples, and waits for the others in every step.

Dimensions: T steps, m examples, N units, n_x inputs, G gates of a stage, L numbers of a vector. j counts examples,
u vectors of units, v vectors of gates (unit vector by unit vector, the gates of one side by side), k along a sum.
"""

from rnnx.engines.cpu.codegen.intrinsics import call3, call5, call7, call14, get, put
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.loops.gradients import add_product, input_gradient, weight_gradients
from rnnx.engines.cpu.loops.packing import (
    barrier,
    convert,
    copy_matrices,
    function,
    pack_columns_of_gates,
    pack_rows_of_gates,
    share,
    vectors_of,
)


@function
def pointer_of(p, stage, i):
    """The entry of the kernel's argument i."""
    return p + 8 * (get(stage, P.POINTERS) + i * P.POINTER_SIZE)


@function
def run_kernel(p, stage, arguments, z, zh, t, j, rows, u0, u1):
    """The mathematics of step t on rows from example j on and unit vectors u0 ... u1 - 1."""
    item, lanes, n_units = get(p, P.ITEM), get(p, P.LANES), get(p, P.N)
    tail = n_units % lanes if u1 * lanes > n_units else 0
    for part in range(2):
        first, vectors = (u0, u1 - u0 - (tail > 0)) if part == 0 else (u1 - 1, int(tail > 0))
        if vectors == 0:
            continue
        column, at = first * lanes * item, 4
        put(arguments, 0, tail)
        if z:
            put(arguments, at, z + column * get(stage, P.N_GATES))
            at += 1
            if not get(stage, P.ADDITIVE):
                put(arguments, at, zh + column * get(stage, P.N_GATES))
                at += 1
        for i in range(get(stage, P.N_POINTERS)):
            pointer = pointer_of(p, stage, i)
            units = n_units * (get(stage, P.N_GATES) if get(pointer, P.POINTER_GATES) else 1)
            offset = t * get(pointer, P.POINTER_STEP) + j * units * item + column
            put(arguments, at + i, get(pointer, P.POINTER) + offset)
        call3(get(stage, P.KERNEL if part == 0 else P.KERNEL_TAIL), rows, vectors, arguments)


@function
def write_rows(p, source, source_row, target, rows, u0, u1):
    """Copy rows of a state, or with source_row = 0 the same row, to unit vectors u0 ... u1 - 1."""
    if u0 == u1:
        return
    item, lanes, n_units = get(p, P.ITEM), get(p, P.LANES), get(p, P.N)
    tail = n_units % lanes if u1 * lanes > n_units else 0
    column = u0 * lanes * item
    shift = column if source_row else 0
    call7(get(p, P.COPY_MASKED), source + shift, source_row, rows, u1 - u0, tail, target + column, n_units * item)


@function
def rest_forward(p, stage, t, j, rows, u0, u1):
    """Step t for examples past their end: the state stays, all else is zero."""
    row, zeros = get(p, P.N) * get(p, P.ITEM), get(p, P.ZEROS)
    n_in, n_out, n_kept = get(stage, P.N_IN), get(stage, P.N_OUT), get(stage, P.N_KEPT)
    for i in range(n_in, n_in + n_out + n_kept):
        pointer = pointer_of(p, stage, i)
        target = get(pointer, P.POINTER) + t * get(pointer, P.POINTER_STEP) + j * row
        if i < n_in + n_out and get(stage, P.LAST):  # all steps of a state stand one after the other
            write_rows(p, target - get(p, P.M) * row, row, target, rows, u0, u1)
        else:
            write_rows(p, zeros, 0, target, rows, u0, u1)


@function
def rest_backward(p, stage, t, j, rows, u0, u1):
    """Step t back for examples past their end: the cotangent of the state stays, dz is zero."""
    row = get(p, P.N) * get(p, P.ITEM)
    n_gates = get(stage, P.N_GATES)
    for side in range(1 if get(stage, P.ADDITIVE) else 2):
        dz = get(stage, P.DZ_H if side == 0 else P.DZ_X) + (t * get(p, P.M) + j) * n_gates * row
        for i in range(rows * n_gates):
            write_rows(p, get(p, P.ZEROS), 0, dz + i * row, 1, u0, u1)


@function
def alike(p, t, j0, j1):
    """End of the run of examples from j0 on that are all before their end at step t, or all past it; which."""
    lengths = get(p, P.LENGTHS)
    if lengths == 0:
        return j1, True
    alive = t < get(lengths, j0)
    j = j0 + 1
    while j < j1 and (t < get(lengths, j)) == alive:
        j += 1
    return j, alive


@function
def write_outputs(p, t, j, rows, u0, u1, alive):
    """The caller's copies of the states of step t, zero past an example's end."""
    row = get(p, P.N) * get(p, P.ITEM)
    at = (t * get(p, P.M) + j) * row
    for i in range(get(p, P.N_OUTPUTS)):
        output = p + 8 * (get(p, P.OUTPUTS) + i * P.OUTPUT_SIZE)
        source = get(output, P.OUTPUT_FROM) + at if alive else get(p, P.ZEROS)
        write_rows(p, source, row if alive else 0, get(output, P.OUTPUT_TO) + at, rows, u0, u1)


# --- the jobs ----------------------------------------------------------------------------------------------------


@function
def my_part(me, n, p):
    """Examples j0 ... j1 - 1 and unit vectors u0 ... u1 - 1 of this thread."""
    all_units = vectors_of(p, get(p, P.N))
    if get(p, P.WIDE):
        u0, u1 = share(me, n, all_units, P.PANEL_UNITS)
        return 0, get(p, P.M), u0, u1
    j0, j1 = share(me, n, get(p, P.M), 1)
    return j0, j1, 0, all_units


@function
def stage_of(p, i):
    """The entry of stage i."""
    return p + 8 * (get(p, P.STAGES) + i * P.STAGE_SIZE)


@function
def look_up(p, stage, z, ldz, x, rows, v0, v1):
    """Z = W_x x + b for `rows` one-hot columns x, of which the indices are given: rows of W_X."""
    size = get(p, P.ITEM) * get(p, P.LANES)
    row, table = get(stage, P.VECTORS) * size, get(stage, P.W_X) + v0 * size
    call7(get(p, P.COPY), get(stage, P.BIAS) + v0 * size, 0, rows, v1 - v0, 0, z, ldz)
    for r in range(rows):
        call5(get(p, P.ADD_ROWS), table + get(x, r) * row, 0, 1, v1 - v0, z + r * ldz)


@function
def input_side(p, stage, z, ldz, t, n_steps, j0, j1, u0, u1):
    """Z = W_x x + b for n_steps steps from t on."""
    n_gates, vectors, item = get(stage, P.N_GATES), get(stage, P.VECTORS), get(p, P.ITEM)
    size, x_row = item * get(p, P.LANES), get(p, P.X_ROW)
    rows, times = j1 - j0, n_steps
    if rows == get(p, P.M):
        rows, times = rows * n_steps, 1
    v0, v1 = u0 * n_gates, u1 * n_gates
    bias = get(stage, P.BIAS) + v0 * size
    for i in range(times):
        x = get(p, P.X) + (t + i) * get(p, P.X_STEP) + j0 * x_row
        here, w = z + i * rows * ldz + v0 * size, get(stage, P.W_X)
        if get(p, P.INDICES):
            look_up(p, stage, here, ldz, x, rows, v0, v1)
            continue
        call14(get(stage, P.PRODUCT), w, vectors, v0, v1, get(p, P.N_X), x, x_row, item, rows, bias, 0, here, ldz, 0)


@function
def forward_stage(p, stage, arguments, z, zh, ldz, t, j0, j1, u0, u1):
    """One stage of step t: the recurrent product, then the elementwise mathematics."""
    n_gates, item = get(stage, P.N_GATES), get(p, P.ITEM)
    row, v0, v1 = get(p, P.N) * item, u0 * n_gates, u1 * n_gates
    column = v0 * item * get(p, P.LANES)
    operand = get(stage, P.OPERAND) + t * get(stage, P.OPERAND_STEP) + j0 * row
    init, ldi, out = z + column, ldz, z + column
    if not get(stage, P.ADDITIVE):
        init, ldi, out = get(stage, P.BIAS_H) + column, 0, zh + column
    w, n_k = get(stage, P.W_H), get(p, P.N)
    product, vectors = get(stage, P.PRODUCT), get(stage, P.VECTORS)
    call14(product, w, vectors, v0, v1, n_k, operand, row, item, j1 - j0, init, ldi, out, ldz, 0)
    put(arguments, 1, row)
    put(arguments, 2, ldz)
    put(arguments, 3, ldz)
    j = j0
    while j < j1:
        end, alive = alike(p, t, j, j1)
        if alive:
            at = (j - j0) * ldz
            run_kernel(p, stage, arguments, z + at, zh + at, t, j, end - j, u0, u1)
        else:
            rest_forward(p, stage, t, j, end - j, u0, u1)
        if get(stage, P.LAST):
            write_outputs(p, t, j, end - j, u0, u1, alive)
        j = end


@function
def forward(me, n, p):
    """The job of a forward pass."""
    n_stages = get(p, P.N_STAGES)
    if get(p, P.PACK):
        for i in range(n_stages):
            pack_rows_of_gates(me, n, p, stage_of(p, i))
    copy_matrices(me, n, p)
    convert(me, n, p)
    barrier(n, p)
    j0, j1, u0, u1 = my_part(me, n, p)
    scratch = get(p, P.SCRATCH) + me * get(p, P.SCRATCH_SIZE)
    arguments, chunk, n_steps = scratch + get(p, P.ARGUMENTS), get(p, P.CHUNK), get(p, P.T)
    size = get(p, P.ITEM) * get(p, P.LANES)
    for t in range(n_steps):
        for i in range(n_stages):
            stage = stage_of(p, i)
            ldz = get(stage, P.VECTORS) * size
            # The stages' input sides stand one after the other, each with room for a whole chunk.
            z = scratch + get(p, P.Z) + i * get(p, P.Z_SIZE)
            zh = scratch + get(p, P.Z) + n_stages * get(p, P.Z_SIZE)
            if t % chunk == 0:
                input_side(p, stage, z, ldz, t, min(chunk, n_steps - t), j0, j1, u0, u1)
            z += t % chunk * (j1 - j0) * ldz
            forward_stage(p, stage, arguments, z, zh, ldz, t, j0, j1, u0, u1)
            if get(p, P.WIDE):
                barrier(n, p)


@function
def backward_stage(n, p, stage, arguments, t, j0, j1, u0, u1):
    """One stage of step t backward: the elementwise mathematics, then the recurrent product."""
    m, item = get(p, P.M), get(p, P.ITEM)
    row, n_k = get(p, P.N) * item, get(stage, P.N_GATES) * get(p, P.N)
    put(arguments, 1, row)
    put(arguments, 2, n_k * item)
    j = j0
    while j < j1:
        end, alive = alike(p, t, j, j1)
        if alive:
            run_kernel(p, stage, arguments, 0, 0, t, j, end - j, u0, u1)
        else:
            rest_backward(p, stage, t, j, end - j, u0, u1)
        j = end
    if get(p, P.WIDE):
        barrier(n, p)
    first = t * m + j0
    out = get(stage, P.D_OPERAND) + j0 * row
    dz = get(stage, P.DZ_H) + first * n_k * item
    add_product(p, dz, j1 - j0, n_k, get(stage, P.W_H), get(p, P.N), u0, u1, out, row, out)
    if not get(p, P.FLAT_DX):
        input_gradient(p, stage, first, j1 - j0)


@function
def backward(me, n, p):
    """The job of a backward pass."""
    n_stages, m = get(p, P.N_STAGES), get(p, P.M)
    for i in range(n_stages):
        pack_columns_of_gates(me, n, p, stage_of(p, i))
    convert(me, n, p)
    barrier(n, p)
    j0, j1, u0, u1 = my_part(me, n, p)
    scratch = get(p, P.SCRATCH) + me * get(p, P.SCRATCH_SIZE)
    for t in range(get(p, P.T) - 1, -1, -1):
        for i in range(n_stages - 1, -1, -1):
            backward_stage(n, p, stage_of(p, i), scratch + get(p, P.ARGUMENTS), t, j0, j1, u0, u1)
    barrier(n, p)
    for i in range(n_stages - 1, -1, -1):
        stage = stage_of(p, i)
        weight_gradients(me, n, p, stage, scratch)
        if get(p, P.FLAT_DX):
            r0, r1 = share(me, n, get(p, P.T) * m, 1)
            input_gradient(p, stage, r0, r1 - r0)
