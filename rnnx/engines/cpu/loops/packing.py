"""Preparation of a pass, for Numba: packing weights, conversion to time-major layout."""

from rnnx.engines.cpu.codegen.gemm import KC
from rnnx.engines.cpu.codegen.intrinsics import call_add_rows, call_copy, call_narrow, call_transpose, fence
from rnnx.engines.cpu.loops.examples import bypasses_cache, end_of, share, vectors_of
from rnnx.engines.cpu.loops.records import conversion_of, copy_of, function, gate_of


@function
def pack_rows(p, n_vectors, v, lane, count, source, row, n_k, packed, nv):
    """Pack `count` rows of weights as columns of vector v of n_vectors, from a lane on; those at lane 0 fill it."""
    size, panel = p.lanes * p.item, v // nv * nv
    for k0 in range(0, n_k, KC):
        k = min(KC, n_k - k0)
        call_transpose(
            p.transpose_masked if lane else p.transpose, source=source + k0 * p.item, source_row=row, count=count, n=k,
            target=packed + (k0 * n_vectors + panel * k + (v - panel)) * size + lane * p.item,
            target_row=min(nv, n_vectors - panel) * size,
        )  # fmt: skip


@function
def narrow_vector(narrow, buffer, n_vectors, v, n_k, packed, nv):
    """Pack vector v of n_vectors in a small format, from a buffer of rows of one vector."""
    panel = v // nv * nv
    call_narrow(
        narrow, source=buffer, n_k=n_k, packed=packed, n_vectors=n_vectors, panel=panel, v=v,
        vectors=min(nv, n_vectors - panel),
    )  # fmt: skip


@function
def columns_of_gate(p, units, n_gates, v, g):
    """Return which columns of vector v are those of gate g: the first lane, the first unit, and their number.

    The gates of a unit vector are side by side, also those of the last one, which may have fewer units.
    """
    u = v // n_gates * p.lanes
    width, first = min(p.lanes, units - u), v * p.lanes - u * n_gates
    begin, end = max(first, g * width), min(first + p.lanes, (g + 1) * width)
    return begin - first, u + begin - g * width, end - begin


@function
def pack_vector(p, stage, of_x, v, buffer):
    """Pack vector v of the columns of all gates with an input side, or with a recurrent one: weights and biases."""
    n_gates, n_vectors = (stage.n_zx, stage.n_vectors_x) if of_x else (stage.n_zh, stage.n_vectors_h)
    n_k, packed, nv = (p.n_x, stage.w_x, stage.nv_x) if of_x else (stage.n_operand, stage.w_h, stage.nv_h)
    narrow, ready = (stage.narrow_x, stage.is_packed_x) if of_x else (stage.narrow_h, stage.is_packed_h)
    biases, first = (stage.bias, stage.n_gates - n_gates) if of_x else (stage.bias_h, 0)
    for g in range(n_gates):
        lane, unit, count = columns_of_gate(p, stage.n, n_gates, v, g)
        if count <= 0:
            continue
        gate = gate_of(stage, first + g)
        row, bias = (gate.w_x_row, gate.bias) if of_x else (gate.w_h_row, gate.bias_h)
        source = (gate.w_x if of_x else gate.w_h) + unit * row
        if narrow and not ready:
            pack_rows(p, 1, 0, lane, count, source, row, n_k, buffer, 1)
        elif not ready:
            pack_rows(p, n_vectors, v, lane, count, source, row, n_k, packed, nv)
        if biases:
            pack_bias(p, bias, unit, lane, count, biases + v * p.lanes * p.item)
    if narrow and not ready:
        narrow_vector(narrow, buffer, n_vectors, v, n_k, packed, nv)


@function
def pack_forward(me, n, p, stage):
    """Pack the weights of a forward pass, transposed, with the gates of each unit vector side by side."""
    buffer = p.scratch + me * p.scratch_size + p.wide
    if stage.heads > 1:
        pack_heads(me, n, p, stage, buffer)
    first, end = share(me, n, stage.n_vectors_h if stage.heads == 1 else 0, 1)
    for v in range(first, end):
        pack_vector(p, stage, False, v, buffer)
    first, end = share(me, n, stage.n_vectors_x, 1)
    for v in range(first, end):
        pack_vector(p, stage, True, v, buffer)
        if stage.bias_h and stage.adds_sides:  # the recurrent product is added to the input side, and so is its bias
            at = v * p.lanes * p.item
            call_add_rows(p.add_rows, stage.bias_h + at, 0, rows=1, vectors=1, sums=stage.bias + at)


@function
def packed_head(stage, block):
    """Return the address of a head's packed recurrent weights; `block` counts the heads of all gates."""
    return stage.w_h + block * stage.head_size


@function
def head_weights(stage, gate, block):
    """Return the addresses of a head's recurrent weights, given and packed; `block` counts the heads of all gates."""
    return gate.w_h + block % stage.heads * stage.n_head * gate.w_h_row, packed_head(stage, block)


@function
def pack_heads(me, n, p, stage, buffer):
    """Pack the recurrent weights of a forward pass as one matrix per gate and head, and the biases as (G, n)."""
    d, vectors = stage.n_head, vectors_of(p, stage.n_head)
    first, end = share(me, n, stage.n_zh * stage.heads, 1)
    for block in range(first, end):
        gate, head = gate_of(stage, block // stage.heads), block % stage.heads
        source, packed = head_weights(stage, gate, block)
        for v in range(0 if stage.is_packed_h else vectors):
            count, rows = min(p.lanes, d - v * p.lanes), source + v * p.lanes * gate.w_h_row
            if stage.narrow_h:
                pack_rows(p, 1, 0, 0, count, rows, gate.w_h_row, d, buffer, 1)
                narrow_vector(stage.narrow_h, buffer, vectors, v, d, packed, stage.nv_h)
            else:
                pack_rows(p, vectors, v, 0, count, rows, gate.w_h_row, d, packed, stage.nv_h)
        bias = gate.bias_h + head * d * p.item if gate.bias_h else p.zeros
        target = stage.bias_h + block * d * p.item
        call_copy(p.copy_masked, bias, 0, rows=1, vectors=vectors, tail=d % p.lanes, target=target, target_row=0)


@function
def pack_bias(p, bias, unit, lane, count, target):
    """Pack `count` numbers of a bias from a unit on, or zeros if there is none, to a vector as `pack_rows` does."""
    source = bias + unit * p.item if bias else p.zeros
    call_copy(
        p.copy_masked if lane else p.copy, source, 0, rows=1, vectors=1, tail=count % p.lanes,
        target=target + lane * p.item, target_row=0,
    )  # fmt: skip


@function
def pack_columns(p, source, row, k0, rows, first, columns, panel, packed, n_k):
    """Pack rows `first` ... of n_k into one micro-panel, in the block of k that begins at k0."""
    size, n_vectors = p.item * p.lanes, vectors_of(p, columns)
    nv = min(p.nv, n_vectors - panel)
    k = min(KC, n_k - k0)
    source += panel * size
    tail = columns % p.lanes if panel + nv == n_vectors else 0
    target = packed + (k0 * n_vectors + panel * k + (first - k0) * nv) * size
    call_copy(p.copy, source, row, rows, nv, tail, target, nv * size)


@function
def pack_backward(me, n, p, stage):
    """Pack the weights of a backward pass, which sums over the units of all gates."""
    if p.unpacked:
        return
    if stage.heads > 1:
        pack_heads_backward(me, n, p, stage)
    for side in range(0 if stage.heads == 1 else 1, 2 if p.dx else 1):
        columns, packed = (stage.n_operand, stage.w_h) if side == 0 else (p.n_x, stage.w_x)
        n_gates = stage.n_zh if side == 0 else stage.n_zx
        first = 0 if side == 0 else stage.n_gates - n_gates
        v0, v1 = share(me, n, vectors_of(p, columns), p.nv)
        for panel in range(v0, v1, p.nv):
            for g in range(n_gates):
                gate = gate_of(stage, first + g)
                source, row = (gate.w_h, gate.w_h_row) if side == 0 else (gate.w_x, gate.w_x_row)
                k, end = g * stage.n, (g + 1) * stage.n
                while k < end:  # up to the end of the block of k, or of the gate
                    k0 = k // KC * KC
                    rows = min(k0 + KC, end) - k
                    pack_columns(p, source, row, k0, rows, k, columns, panel, packed, n_gates * stage.n)
                    source += rows * row
                    k += rows


@function
def pack_heads_backward(me, n, p, stage):
    """Pack the recurrent weights of a backward pass as one matrix per gate and head."""
    d, vectors = stage.n_head, vectors_of(p, stage.n_head)
    first, end = share(me, n, stage.n_zh * stage.heads, 1)
    for block in range(first, end):
        gate = gate_of(stage, block // stage.heads)
        source, packed = head_weights(stage, gate, block)
        for k0 in range(0, d, KC):
            for panel in range(0, vectors, p.nv):
                rows = min(KC, d - k0)
                pack_columns(p, source + k0 * gate.w_h_row, gate.w_h_row, k0, rows, k0, d, panel, packed, d)


@function
def to_time_major(p, c, t0, t1, j0, j1, target, step):
    """Convert steps t0 ... t1 - 1 of examples j0 ... j1 - 1 of a public array to rows, zero past each length.

    The examples of a step are one after another, and the next step is `step` bytes further.
    """
    row, tail, vectors = c.features * p.item, c.features % p.lanes, vectors_of(p, c.features)
    along_features, first = c.feature_stride == p.item, c.source + t0 * c.step_stride
    bypasses = bypasses_cache(p, target, row, (t1 - t0) * step)
    whole = p.transpose_nontemporal if bypasses else p.transpose
    for v in range(0 if along_features else vectors):
        count = min(p.lanes, c.features - v * p.lanes)
        for j in range(j0, j1):
            call_transpose(
                whole if count == p.lanes else p.transpose_masked,
                source=first + j * c.example_stride + v * p.lanes * c.feature_stride, source_row=c.feature_stride,
                count=count, n=min(end_of(p, j), t1) - t0, target=target + (j - j0) * row + v * p.lanes * p.item,
                target_row=step,
            )  # fmt: skip
    if bypasses:
        fence()
    for j in range(j0, j1):
        n, to = min(end_of(p, j), t1) - t0, target + (j - j0) * row
        if along_features:
            call_copy(p.copy_masked, first + j * c.example_stride, c.step_stride, n, vectors, tail, to, step)
        if n < t1 - t0:
            call_copy(p.copy_masked, p.zeros, 0, t1 - t0 - n, vectors, tail, to + n * step, step)


@function
def convert(me, n, p):
    """Convert slice me's examples to time-major layout, and copy its share of initial states and parameters."""
    j0, j1 = share(me, n, p.m, 1)
    for i in range(int(p.x_block > 0), p.n_conversions):  # x comes first, if it is converted at all
        c = conversion_of(p, i)
        row = c.features * p.item
        to_time_major(p, c, 0, p.n_steps, j0, j1, c.target + j0 * row, p.m * row)
    for i in range(p.n_copies):
        c = copy_of(p, i)
        first, end = share(me, n, c.size, p.lanes)
        at, size = first * p.item, end - first
        call_copy(p.copy_masked, c.source + at, 0, 1, vectors_of(p, size), size % p.lanes, c.target + at, 0)


@function
def convert_block(p, t, j0, j1, scratch):
    """Convert a block of steps of x from t on, for examples j0 ... j1 - 1, to rows in scratch memory."""
    end = min(t + p.x_block, p.n_steps)
    to_time_major(p, conversion_of(p, 0), t, end, j0, j1, scratch + p.x_rows, (j1 - j0) * p.x_row)
