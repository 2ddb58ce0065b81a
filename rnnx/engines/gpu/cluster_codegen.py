"""The CUDA source of a cell's whole passes for small hidden sizes; its parts stand in ``cuda/cluster.cuh``.

The mathematics is traced from the cell as in `codegen`; here it stands inside the loop over time, its states in
shared memory. Dimensions: as there; `a` counts the elements of a block, row `j` of the cluster by unit `u` of the
block; a thread has the same elements all along.
"""

from functools import lru_cache

from rnnx.cells import Cell
from rnnx.engines.gpu import codegen as base

CLUSTER, THREADS = 8, 512  # blocks; threads of a block
PARTS, ROW_PARTS = 4, 8  # of a sum, for different threads: forward of its terms, backward of the rows

_NAMES = {"CLUSTER": CLUSTER, "THREADS": THREADS, "PARTS": PARTS, "ROW_PARTS": ROW_PARTS}
_DEFINED = "".join(f"#define RNNX_{name} {value}\n" for name, value in _NAMES.items())
_HEAD = f"__cluster_dims__({CLUSTER}, 1, 1) __launch_bounds__({THREADS}, 1) "
_ELEMENTS = "for (int a = threadIdx.x; a < RNNX_ROWS * units; a += RNNX_THREADS) {"
_PLACE = (
    "  const int j = a / units, u = a - j * units;",
    "  if (u >= count || j0 + j >= m) continue;",
    "  const i64 e = (j0 + j) * n + first + u;",
    "  const bool past = lengths && t >= lengths[j0 + j];",
)
_BEGIN = (
    "RNNX_SHARED(unsigned char, shared);",
    "unsigned char* free = shared;",
    "const int rank = cluster_rank(), units = (int)((n + RNNX_CLUSTER - 1) / RNNX_CLUSTER), first = rank * units;",
    "const int count = first >= n ? 0 : n - first < units ? (int)(n - first) : units;",
    "const int n4 = (int)((n + 3) / 4 * 4), stride = n4 + 4;",
    "const i64 j0 = (i64)(blockIdx.x / RNNX_CLUSTER) * RNNX_ROWS;",
)
_SIZES = ["const i64* lengths", "i64 n_steps", "i64 m", "i64 n", "i64 row"]


@lru_cache(maxsize=64)
def source(cell: Cell) -> str:
    """The kernels ``cluster_forward`` and ``cluster_backward``."""
    return "\n".join([_DEFINED, base.read("prelude.cuh"), base.read("cluster.cuh"), _forward(cell), _backward(cell)])


def rows_choices(itemsize: int) -> tuple[int, ...]:
    """Numbers of examples of a cluster whose sums have room in the registers."""
    return (1, 2, 4) if itemsize == 8 else (1, 2, 4, 8)


def shared_bytes(cell: Cell, itemsize: int, n: int, rows: int) -> int:
    """Shared memory that a block needs at most, forward or backward."""
    real = 8 if itemsize == 8 else 4
    units, n4 = -(-n // CLUSTER), -(-n // 4) * 4
    gates = [len(stage.gates) for stage in cell.stages]
    weights = sum(_rounded(g * units * (n4 + 4) * itemsize) for g in gates)
    states = max(len(stage.out) for stage in cell.stages) + len(cell.states)
    own = (len(cell.stages) + 1) * states * _rounded(rows * units * real)
    forward = _rounded(2 * rows * n4 * real) * len(gates) + _rounded(PARTS * rows * max(gates) * units * real)
    backward = _rounded(rows * max(gates) * units * real) + _rounded(ROW_PARTS * rows * n4 * real)
    backward += _rounded(2 * CLUSTER * rows * units * real)
    return weights + own + max(forward, backward)


def _rounded(size: int) -> int:
    return -(-size // 16) * 16


def _load_weights(cell: Cell) -> list[str]:
    lines = []
    for i, stage in enumerate(cell.stages):
        gates = len(stage.gates)
        lines.append(f"storage* w{i} = carve<storage>(free, (i64){gates} * units * stride);")
        lines.append(f"load_weights(w{i}, wh{i}, {gates}, units, first, count, (int)n, stride);")
    return lines


def _own(names: list[str]) -> list[str]:
    """Arrays of numbers of the block's elements."""
    return [f"real* {name} = carve<real>(free, RNNX_ROWS * units);" for name in names]


# --- forward ------------------------------------------------------------------------------------------------------


def _forward(cell: Cell) -> str:
    """All steps; the operand of stage i is in `operand<i>`, twice: one is read while the next one is written."""
    stages, states = range(len(cell.stages)), range(len(cell.states))
    arguments = ["const storage* zx", "i64 step", "const i64* index", "const storage* b"]
    arguments += [f"const storage* {name}{i}" for i in stages for name in ("wh", "bh")]
    arguments += [f"storage* S{k}" for k in states]
    arguments += [f"storage* K{k}" for k in range(len(cell.saved))]
    arguments += [*_SIZES, "i64 n_x", "i64 kept"]
    most = max(len(stage.gates) for stage in cell.stages)
    lines = [*_BEGIN, *_load_weights(cell)]
    lines += [f"real* operand{i} = carve<real>(free, 2 * RNNX_ROWS * n4);" for i in stages]
    lines.append(f"real* parts = carve<real>(free, (i64)RNNX_PARTS * RNNX_ROWS * {most} * units);")
    lines += _own([f"s{k}" for k in states] + [f"m{i}_{k}" for i in stages[1:] for k in _out(cell, i - 1)])
    lines += ["for (int a = threadIdx.x; a < 2 * RNNX_ROWS * n4; a += RNNX_THREADS) {"]
    lines += [*(f"  operand{i}[a] = real(0);" for i in stages), "}"]
    lines += ["cluster_barrier();", "i64 t = -1;", _ELEMENTS, *_PLACE]
    lines += [f"  s{k}[a] = load(S{k} + e);" for k in states]
    lines += ["  tell_all(operand0 + j * n4 + first + u, s0[a]);", "  (void)past;", "}", "cluster_barrier();"]
    lines += ["for (t = 0; t < n_steps; t++) {"]
    for i in stages:
        lines += [f"  {line}" for line in _forward_stage(cell, i)]
    return base.kernel(_HEAD + "cluster_forward", arguments, [*lines, "}"])


def _out(cell: Cell, i: int) -> range:
    return range(len(cell.stages[i].out))


def _forward_stage(cell: Cell, i: int) -> list[str]:
    trace, leaving, saved = base.trace_forward(cell, i)
    gates, first, last = len(cell.stages[i].gates), cell.first_gates[i], i == len(cell.stages) - 1
    kept_at, out_at = cell.saved_slices[i]
    now, then = "(t & 1) * RNNX_ROWS * n4", "((t + 1) & 1) * RNNX_ROWS * n4"
    into = [f"m{i}_{k}" for k in _out(cell, i - 1)] if i else [f"s{k}" for k in range(len(cell.states))]
    lines = [f"product(w{i}, {gates} * units, stride, operand{i} + {now}, n4, parts);", "__syncthreads();"]
    lines += [_ELEMENTS, *_PLACE, "  const i64 chosen = index ? index[t * m + j0 + j] : j0 + j;"]
    lines += ["  const bool known = !index || (chosen >= 0 && chosen < n_x);"]
    lines += ["  const storage* x = zx + t * step + chosen * row + first + u;"]
    lines += [f"  const real p{k} = {name}[a];" for k, name in enumerate(into)]
    for g in range(gates):
        at, here = f"{first + g} * n", f"{g} * units + u"
        lines.append(f'  const real zx{g} = (known ? load(x + {at}) : real(nanf(""))) + load(b + {at} + first + u);')
        beside = f"(bh{i} ? load(bh{i} + {g} * n + first + u) : real(0))"
        lines.append(f"  const real zh{g} = sum_of_parts(parts, {gates} * units, j, {here}) + {beside};")
    lines += [f"  {line}" for line in trace.lines]
    for k, symbol in enumerate(leaving):
        if last:
            lines += [f"  if (!past) s{k}[a] = {symbol.name};", f"  store(S{k} + (t + 1) * m * n + e, s{k}[a]);"]
        else:
            lines += [f"  m{i + 1}_{k}[a] = {symbol.name};"]
            lines += [f"  store(K{out_at.start + k} + t * kept + e, past ? real(0) : {symbol.name});"]
    for k, symbol in enumerate(saved):
        lines.append(f"  store(K{kept_at.start + k} + t * kept + e, past ? real(0) : {symbol.name});")
    if last:
        lines.append(f"  tell_all(operand0 + {then} + j * n4 + first + u, s0[a]);")
    else:
        lines.append(f"  tell_all(operand{i + 1} + {now} + j * n4 + first + u, m{i + 1}_0[a]);")
    return [*lines, "}", "cluster_barrier();"]


# --- backward -----------------------------------------------------------------------------------------------------


def _backward(cell: Cell) -> str:
    """All steps backward; the cotangents of what enters stage i are in `d<i>_<k>`."""
    stages, states = range(len(cell.stages)), range(len(cell.states))
    arguments = [f"const storage* Y{k}" for k in states]
    arguments += [f"const storage* wh{i}" for i in stages]
    arguments += [f"const storage* S{k}" for k in states]
    arguments += [f"const storage* K{k}" for k in range(len(cell.saved))]
    arguments += ["storage* dZ", *(f"storage* dZh{i}" for i in stages if not cell.stages[i].additive)]
    arguments += [f"real* carry{k}" for k in states]
    arguments += _SIZES
    most = max(len(stage.gates) for stage in cell.stages)
    lines = [*_BEGIN, *_load_weights(cell)]
    lines += [f"real* dz = carve<real>(free, (i64){most} * units * RNNX_ROWS);"]
    lines += ["real* parts = carve<real>(free, (i64)RNNX_ROW_PARTS * RNNX_ROWS * n4);"]
    lines += ["real* received = carve<real>(free, (i64)2 * RNNX_CLUSTER * RNNX_ROWS * units);"]
    lines += _own([f"d{i}_{k}" for i in stages for k in range(len(cell.entering(i)))])
    lines += ["i64 t = -1;", "int turn = 0;", _ELEMENTS, *_PLACE, "  (void)past;"]
    lines += [f"  d0_{k}[a] = carry{k}[e];" for k in states]
    lines += ["}", "cluster_barrier();", "for (t = n_steps - 1; t >= 0; t--) {"]
    for i in reversed(stages):
        lines += [f"  {line}" for line in _backward_stage(cell, i)]
    lines += ["}", _ELEMENTS, *_PLACE, "  (void)past;"]
    lines += [f"  carry{k}[e] = d0_{k}[a];" for k in states]
    return base.kernel(_HEAD + "cluster_backward", arguments, [*lines, "}"])


def _backward_stage(cell: Cell, i: int) -> list[str]:
    trace, dzx, dzh, dp = base.trace_backward(cell, i)
    stage, last, first = cell.stages[i], i == len(cell.stages) - 1, cell.first_gates[i]
    gates, (kept_at, out_at) = len(stage.gates), cell.saved_slices[i]
    before = cell.saved_slices[i - 1][1] if i else slice(0, 0)
    outs, carried = range(len(stage.out)), 0 if last else i + 1
    # Neither rows past the end of an example nor rows that are not there may add to a product.
    lines = ["for (int a = threadIdx.x; a < RNNX_ROWS * units; a += RNNX_THREADS) {"]
    lines += [f"  dz[({g} * units + a % units) * RNNX_ROWS + a / units] = real(0);" for g in range(gates)]
    lines += ["}", _ELEMENTS, *_PLACE]
    lines.append(f"  storage* zx = dZ + (t * m + j0 + j) * row + {first} * n + first + u;")
    if not stage.additive:
        lines.append(f"  storage* zh = dZh{i} + (t * m + j0 + j) * {gates} * n + first + u;")
    lines.append("  if (past) {")
    lines += [f"    store(zx + {g} * n, real(0));" for g in range(gates)]
    lines += [] if stage.additive else [f"    store(zh + {g} * n, real(0));" for g in range(gates)]
    lines += ["    continue;", "  }"]
    for k in outs:
        more = f" + (Y{k} ? load(Y{k} + t * m * n + e) : real(0))" if last else ""
        lines.append(f"  const real d{k} = d{carried}_{k}[a]{more};")
    into = [f"K{n} + t * m * n" for n in range(before.start, before.stop)]
    into = into if i else [f"S{k} + t * m * n" for k in range(len(cell.states))]
    lines += [f"  const real p{k} = load({place} + e);" for k, place in enumerate(into)]
    left = [f"S{k} + (t + 1) * m * n" if last else f"K{out_at.start + k} + t * m * n" for k in outs]
    lines += [f"  const real q{k} = load({place} + e);" for k, place in enumerate(left)]
    kept = range(len(stage.saved))
    lines += [f"  const real k{k} = load(K{kept_at.start + k} + t * m * n + e);" for k in kept]
    lines += [f"  {line}" for line in trace.lines]
    for g in range(gates):
        lines.append(f"  store(zx + {g} * n, {dzx[g].name});")
        lines += [] if stage.additive else [f"  store(zh + {g} * n, {dzh[g].name});"]
        lines.append(f"  dz[({g} * units + u) * RNNX_ROWS + j] = {dzh[g].name};")
    lines += [f"  d{i}_{k}[a] = {symbol.name};" for k, symbol in enumerate(dp)]
    lines += ["}", "__syncthreads();", f"product_back(w{i}, {gates} * units, stride, dz, n4, parts);"]
    now = "received + turn * RNNX_CLUSTER * RNNX_ROWS * units"
    lines += ["__syncthreads();", f"tell_owners(parts, (int)n, n4, units, rank, {now});", "cluster_barrier();"]
    lines += [_ELEMENTS, *_PLACE, f"  if (!past) d{i}_0[a] += sum_of_blocks({now}, units, j, u);", "}", "turn ^= 1;"]
    return lines
