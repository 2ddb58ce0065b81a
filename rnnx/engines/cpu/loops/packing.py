"""Getting ready, for Numba: how threads share a job, packing weights, making arrays time-major.

See `passes` for what these functions have in common.
"""

from typing import Any

from numba import njit

from rnnx.engines.cpu.codegen.gemm import K_BLOCK
from rnnx.engines.cpu.codegen.intrinsics import add_at, atomic_get, call6, call7, get, pause, put, yield_to
from rnnx.engines.cpu.descriptor import fields as P

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
    """Vectors that hold so many columns."""
    return -(-columns // get(p, P.LANES))


@function
def pack_rows_of_gates(me, n, p, stage):
    """The weights of forward, transposed: columns are gates of units."""
    n_units, lanes, item = get(p, P.N), get(p, P.LANES), get(p, P.ITEM)
    n_gates, vectors = get(stage, P.N_GATES), get(stage, P.VECTORS)
    size = lanes * item
    u0, u1 = share(me, n, vectors_of(p, n_units), 1)
    for v in range(u0 * n_gates, u1 * n_gates):
        u, gate = v // n_gates, p + 8 * (get(stage, P.GATES) + v % n_gates * P.GATE_SIZE)
        count = min(lanes, n_units - u * lanes)
        for side in range(2):
            n_v = get(stage, P.NV if side == 0 else P.NV_X)
            panel = v // n_v * n_v
            row = min(n_v, vectors - panel) * size
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
    for side in range(2 if get(p, P.DX) else 1):
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
    """Make arrays time-major: thread me's share of the examples."""
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
