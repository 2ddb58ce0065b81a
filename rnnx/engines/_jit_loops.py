"""The loops of the compiled engine, for Numba: packing, the loop over time, the gradients of the weights.

They know neither cell nor dtype: all they handle is integers, which are counts, addresses and strides in bytes;
the arithmetic is in functions that they call by address (`_tile`, `_kernels`, `_moves`). So they are compiled once
for all. A *job* is a function ``(me, n, p)`` that thread `me` of `n` runs; `p` is the address of a plan (`_plan`).

Two ways to share a job: *sliced*, each thread runs the whole loop on examples of its own; and *wide*, each thread
runs it on units of its own, all examples, and waits for the others in every step.

Dimensions: T steps, m examples, N units, n_x inputs, G gates of a stage, L numbers of a vector. j counts examples,
u vectors of units, v vectors of gates (unit vector by unit vector, the gates of one side by side), k along a sum.
"""

from typing import Any

from numba import njit

from rnnx.engines import _plan as P
from rnnx.engines._intrinsics import add_at, atomic_get, call3, call5, call6, call7, call14, get, pause, put, yield_to
from rnnx.engines._tile import K_BLOCK, ROW_BLOCK

_SPINS = 2000  # looks at the barrier before letting other threads run

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
function: Any = njit(**_OPTIONS)


@function
def share(me, n, total, unit):
    """Begin and end of thread me's part of `total`, in multiples of `unit`."""
    units = -(-total // unit)
    return min(units * me // n * unit, total), min(units * (me + 1) // n * unit, total)


@function
def barrier(n, p):
    """Wait until all n threads are here."""
    if n == 1:
        return
    place = get(p, P.BARRIER)
    passed = atomic_get(place, 8)
    if add_at(place, 0, 1) == n - 1:
        put(place, 0, 0)
        add_at(place, 8, 1)
        return
    spins = 0
    while atomic_get(place, 8) == passed:
        pause()
        spins += 1
        if spins > _SPINS:
            yield_to(get(p, P.YIELD))


@function
def vectors_of(p, columns):
    return -(-columns // get(p, P.LANES))


# --- packing ----------------------------------------------------------------------------------------------------


@function
def pack_rows_of_gates(me, n, p, stage):
    """The weights of forward, transposed: columns are gates of units."""
    n_units, lanes, item = get(p, P.N), get(p, P.LANES), get(p, P.ITEM)
    n_gates, vectors, n_v = get(stage, P.N_GATES), get(stage, P.VECTORS), get(stage, P.NV)
    size = lanes * item
    u0, u1 = share(me, n, vectors_of(p, n_units), 1)
    for v in range(u0 * n_gates, u1 * n_gates):
        u, gate = v // n_gates, p + 8 * (get(stage, P.GATES) + v % n_gates * P.GATE_SIZE)
        count = min(lanes, n_units - u * lanes)
        panel = v // n_v * n_v
        row = min(n_v, vectors - panel) * size
        for side in range(2):
            n_k = get(p, P.N) if side == 0 else get(p, P.N_X)
            packed = get(stage, P.W_H if side == 0 else P.W_X)
            ld = get(gate, P.HIDDEN_ROW if side == 0 else P.INPUTS_ROW)
            source = get(gate, P.HIDDEN if side == 0 else P.INPUTS) + u * lanes * ld
            for k0 in range(0, n_k, K_BLOCK):
                k = min(K_BLOCK, n_k - k0)
                target = packed + (k0 * vectors + panel * k + (v - panel)) * size
                call6(get(p, P.TRANSPOSE), source + k0 * item, ld, count, k, target, row)
        at = v * size
        bias = get(gate, P.GATE_BIAS) + u * size
        call7(get(p, P.COPY), bias, 0, 1, 1, count % lanes, get(stage, P.BIAS) + at, 0)
        if get(stage, P.BIAS_H):
            bias = get(gate, P.GATE_BIAS_H)
            bias = get(p, P.ZEROS) if bias == 0 else bias + u * size
            call7(get(p, P.COPY), bias, 0, 1, 1, count % lanes, get(stage, P.BIAS_H) + at, 0)


@function
def pack_columns(p, source, ld, k0, rows, first, columns, panel, packed, n_k):
    """Rows first ... first + rows - 1 of all n_k rows, one panel of the columns."""
    size = get(p, P.ITEM) * get(p, P.LANES)
    vectors = vectors_of(p, columns)
    n_v = min(get(p, P.PLAIN_NV), vectors - panel)
    tail = columns % get(p, P.LANES) if panel + n_v == vectors else 0
    k = min(K_BLOCK, n_k - k0)
    target = packed + (k0 * vectors + panel * k + (first - k0) * n_v) * size
    call7(get(p, P.COPY), source + panel * size, ld, rows, n_v, tail, target, n_v * size)


@function
def pack_columns_of_gates(me, n, p, stage):
    """The weights of backward: the sums run over gates and units."""
    n_units, n_gates = get(p, P.N), get(stage, P.N_GATES)
    n_k = n_gates * n_units
    for side in range(2):
        columns = get(p, P.N) if side == 0 else get(p, P.N_X)
        packed = get(stage, P.W_H if side == 0 else P.W_X)
        v0, v1 = share(me, n, vectors_of(p, columns), get(p, P.PLAIN_NV))
        for panel in range(v0, v1, get(p, P.PLAIN_NV)):
            for g in range(n_gates):
                gate = p + 8 * (get(stage, P.GATES) + g * P.GATE_SIZE)
                ld = get(gate, P.HIDDEN_ROW if side == 0 else P.INPUTS_ROW)
                source = get(gate, P.HIDDEN if side == 0 else P.INPUTS)
                k = g * n_units
                while k < (g + 1) * n_units:  # as far as a block of k and the gate go
                    k0 = k // K_BLOCK * K_BLOCK
                    rows = min(k0 + K_BLOCK, (g + 1) * n_units) - k
                    pack_columns(p, source + (k - g * n_units) * ld, ld, k0, rows, k, columns, panel, packed, n_k)
                    k += rows


@function
def end_of(p, c, j):
    """The steps of example j; all of them, unless a conversion has ENDS."""
    n_steps, lengths = get(p, P.T), get(p, P.LENGTHS)
    return min(n_steps, get(lengths, j)) if lengths and get(c, P.ENDS) else n_steps


@function
def transpose_features(p, c, v, j0, j1):
    """One vector of features of the examples, whose steps are contiguous: they are read in the order of memory."""
    m, item, lanes = get(p, P.M), get(p, P.ITEM), get(p, P.LANES)
    features, ld = get(c, P.FEATURES), get(c, P.FROM_FEATURE)
    row, count = features * item, min(lanes, features - v * lanes)
    transpose = get(p, P.TRANSPOSE if count == lanes else P.TRANSPOSE_MASKED)
    for j in range(j0, j1):
        source = get(c, P.FROM) + j * get(c, P.FROM_EXAMPLE) + v * lanes * ld
        target = get(c, P.TO) + j * row + v * lanes * item
        call6(transpose, source, ld, count, end_of(p, c, j), target, m * row)


@function
def to_time_major(p, c, j0, j1):
    """Examples j0 ... j1 - 1 of a public array into (T, m, features)."""
    n_steps, m, item, lanes = get(p, P.T), get(p, P.M), get(p, P.ITEM), get(p, P.LANES)
    features = get(c, P.FEATURES)
    row, tail, vectors = features * item, features % lanes, vectors_of(p, features)
    along_features = get(c, P.FROM_FEATURE) == item
    if not along_features:
        for v in range(vectors):
            transpose_features(p, c, v, j0, j1)
    for j in range(j0, j1):
        end, target = end_of(p, c, j), get(c, P.TO) + j * row
        if along_features:
            source = get(c, P.FROM) + j * get(c, P.FROM_EXAMPLE)
            call7(get(p, P.COPY_MASKED), source, get(c, P.FROM_STEP), end, vectors, tail, target, m * row)
        if end < n_steps:
            rest = target + end * m * row
            call7(get(p, P.COPY_MASKED), get(p, P.ZEROS), 0, n_steps - end, vectors, tail, rest, m * row)


@function
def convert(me, n, p):
    j0, j1 = share(me, n, get(p, P.M), 1)
    for i in range(get(p, P.N_CONVERSIONS)):
        to_time_major(p, p + 8 * (get(p, P.CONVERSIONS) + i * P.CONVERSION_SIZE), j0, j1)


@function
def copy_matrices(me, n, p):
    """The weights, for a backward pass that may come after the caller has changed them."""
    item = get(p, P.ITEM)
    for i in range(get(p, P.N_COPIES)):
        copy = p + 8 * (get(p, P.COPIES) + i * P.COPY_SIZE)
        ld, columns = get(copy, P.COPY_FROM_ROW), get(copy, P.COPY_COLUMNS)
        r0, r1 = share(me, n, get(copy, P.COPY_ROWS), 1)
        target = get(copy, P.COPY_TO) + r0 * columns * item
        vectors, tail = vectors_of(p, columns), columns % get(p, P.LANES)
        call7(
            get(p, P.COPY_MASKED), get(copy, P.COPY_FROM) + r0 * ld, ld, r1 - r0, vectors, tail, target, columns * item
        )


# --- one step ----------------------------------------------------------------------------------------------------


@function
def pointer_of(p, stage, i):
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
    return p + 8 * (get(p, P.STAGES) + i * P.STAGE_SIZE)


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
        call14(get(stage, P.PRODUCT), w, vectors, v0, v1, get(p, P.N_X), x, x_row, item, rows, bias, 0, here, ldz, 0)


@function
def forward_stage(p, stage, arguments, z, zh, ldz, t, j0, j1, u0, u1):
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
    """Rows of dx; the stage that runs first begins, the others add."""
    n_x, item = get(p, P.N_X), get(p, P.ITEM)
    n_k = get(stage, P.N_GATES) * get(p, P.N)
    out = get(p, P.DX) + first_row * n_x * item
    init, ldi = (get(p, P.ZEROS), 0) if get(stage, P.LAST) else (out, n_x * item)
    dz = get(stage, P.DZ_X) + first_row * n_k * item
    add_product(p, dz, rows, n_k, get(stage, P.W_X), n_x, 0, vectors_of(p, n_x), init, ldi, out)


@function
def backward_stage(n, p, stage, arguments, t, j0, j1, u0, u1):
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
def weight_gradients(me, n, p, stage, scratch):
    """DW = dz^T [operand, x] and db = the sum of dz, over all steps and examples; rows c0 ... c1 - 1."""
    item, lanes, n_units, n_x = get(p, P.ITEM), get(p, P.LANES), get(p, P.N), get(p, P.N_X)
    n_c, n_k = get(stage, P.N_GATES) * n_units, get(p, P.T) * get(p, P.M)
    a, b_h = scratch + get(p, P.BLOCK_A), scratch + get(p, P.BLOCK_B)
    lda = (ROW_BLOCK + lanes) * item  # an odd number of cache lines: the rows do not fall on each other in the cache
    dw, ld = get(stage, P.DW), (n_units + n_x) * item
    c0, c1 = share(me, n, n_c, lanes)
    for sums in (get(stage, P.DB_X), get(stage, P.DB_H)):
        call7(get(p, P.COPY), get(p, P.ZEROS), 0, vectors_of(p, c1 - c0), 1, 0, sums + c0 * item, lanes * item)
    for k0 in range(0, n_k, K_BLOCK):
        k = min(K_BLOCK, n_k - k0)
        b_x = b_h + k * vectors_of(p, n_units) * lanes * item
        for side in range(2):
            columns, packed = (n_units, b_h) if side == 0 else (n_x, b_x)
            source = (get(stage, P.OPERAND) if side == 0 else get(p, P.X)) + k0 * columns * item
            for panel in range(0, vectors_of(p, columns), get(p, P.PLAIN_NV)):
                pack_columns(p, source, columns * item, 0, k, 0, columns, panel, packed, k)
        for c in range(c0, c1, ROW_BLOCK):
            rows = min(ROW_BLOCK, c1 - c)
            block_of_dz(p, get(stage, P.DZ_X), n_c, k0, k, c, rows, a, lda, get(stage, P.DB_X))
            add_weight_gradient(p, a, lda, rows, c, b_x, n_x, k, k0 == 0, dw + n_units * item, ld)
            if not get(stage, P.ADDITIVE):
                block_of_dz(p, get(stage, P.DZ_H), n_c, k0, k, c, rows, a, lda, get(stage, P.DB_H))
            add_weight_gradient(p, a, lda, rows, c, b_h, n_units, k, k0 == 0, dw, ld)


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
