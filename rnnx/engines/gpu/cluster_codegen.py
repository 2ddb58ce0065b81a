"""The CUDA source of whole passes for small hidden sizes: one kernel on thread block clusters.

Cells are traced as in `codegen`, but the kernel contains the loop over time and keeps the states in shared memory. The
building blocks are in ``kernels/cluster.cuh``. Dimensions as in `codegen`; `a` is an element of a block, example `j` of
the cluster by unit `u` of the block. A thread keeps the same elements in all steps.
"""

from functools import lru_cache

from rnnx.cells import Cell
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.gpu.codegen import Kernel, load, make_kernel, read
from rnnx.engines.gpu.trace import trace_backward, trace_forward

CLUSTER, THREADS = 8, 512  # blocks per cluster; threads per block
PARTS, ROW_PARTS = 4, 8  # threads per sum, which split its terms (forward) or the rows (backward)
_RESIDENT = 16  # clusters resident on an H200

_NAMES = {"CLUSTER": CLUSTER, "THREADS": THREADS, "PARTS": PARTS, "ROW_PARTS": ROW_PARTS}
_DEFINED = "".join(f"#define RNNX_{name} {value}\n" for name, value in _NAMES.items())
_ATTRIBUTES = f"__cluster_dims__({CLUSTER}, 1, 1) __launch_bounds__({THREADS}, 1) "
_ELEMENTS = "for (int a = threadIdx.x; a < RNNX_ROWS * units; a += RNNX_THREADS) {"
_PLACE = (
    "  const int j = a / units, u = a - j * units;",
    "  if (u >= count || j0 + j >= m) continue;",
    "  const i64 e = (j0 + j) * n + first + u;",
    "  const bool past_end = lengths && t >= lengths[j0 + j];",
)
_BEGIN = (
    "RNNX_SHARED(unsigned char, shared);",
    "unsigned char* free = shared;",
    "const int rank = cluster_rank(), units = (int)((n + RNNX_CLUSTER - 1) / RNNX_CLUSTER), first = rank * units;",
    "const int count = first >= n ? 0 : n - first < units ? (int)(n - first) : units;",
    "const int n4 = (int)((n + 3) / 4 * 4), stride = n4 + 4;",
    "const i64 j0 = (i64)(blockIdx.x / RNNX_CLUSTER) * RNNX_ROWS;",
)
_SIZES = ("const i64* lengths", "i64 n_steps", "i64 m", "i64 n", "i64 row")


@lru_cache(maxsize=64)
def source(cell: Cell) -> str:
    """Return the kernels ``cluster_forward`` and ``cluster_backward``."""
    kernels = (forward_kernel(cell).text, backward_kernel(cell).text)
    return "\n".join([_DEFINED, read("prelude.cuh"), read("cluster.cuh"), *kernels])


def _stored(cell: Cell) -> list[str]:
    """Parameters for the states and saved values of all steps."""
    counts = {"S": len(cell.states), "K": len(cell.saved)}
    return [f"storage* {letter}{k}" for letter, count in counts.items() for k in range(count)]


def _at(slot: Slot, saved_step: str = "m * n") -> str:
    """The address of an element of a slot at step t."""
    if slot.kind == "saved":
        return f"K{slot.number} + t * {saved_step} + e"
    return f"S{slot.number} + {'(t + 1)' if slot.after else 't'} * m * n + e"


def rows_per_cluster(cell: Cell, itemsize: int, n: int, m: int, limit: int) -> int:
    """Return the examples per cluster, so that all clusters are resident if a block's memory `limit` allows.

    Return 0 if the weights do not fit in shared memory.
    """
    choices = rows_choices(itemsize)
    enough = next((rows for rows in choices if -(-m // rows) <= _RESIDENT), choices[-1])
    fitting = [rows for rows in choices if rows <= enough and shared_bytes(cell, itemsize, n, rows) <= limit]
    return fitting[-1] if fitting else 0


def rows_choices(itemsize: int) -> tuple[int, ...]:
    """Numbers of examples per cluster whose sums fit in registers."""
    return (1, 2, 4) if itemsize == 8 else (1, 2, 4, 8)


def shared_bytes(cell: Cell, itemsize: int, n: int, rows: int) -> int:
    """Upper bound of the shared memory of a block, forward and backward."""
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


def _load_weights(stages: tuple[StageWiring, ...]) -> list[str]:
    lines = []
    for stage in stages:
        i, gates = stage.number, stage.n_gates
        lines.append(f"storage* w{i} = allocate<storage>(free, (i64){gates} * units * stride);")
        lines.append(f"load_weights(w{i}, wh{i}, {gates}, units, first, count, (int)n, stride);")
    return lines


def _of_elements(names: list[str]) -> list[str]:
    """Arrays with one number per element of the block."""
    return [f"real* {name} = allocate<real>(free, RNNX_ROWS * units);" for name in names]


def _entering(stage: StageWiring) -> list[str]:
    """A block's arrays of the values that a stage reads."""
    return [f"s{stage.number}_{k}" for k in range(len(stage.reads))]


# --- forward ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def forward_kernel(cell: Cell) -> Kernel:
    """Return the kernel ``cluster_forward``.

    `zx` has rows of length `row`: with `index`, the packed input weights; else one per example, with stride `zx_step`
    between steps. `saved_step` is the stride of saved values. ``operand<i>`` is double-buffered.
    """
    stages = wiring(cell)
    # Register allocation depends on the order: others spill on sm_100.
    parameters = ["const storage* zx", "i64 zx_step", "const i64* index", "const storage* b"]
    parameters += [f"const storage* {name}{stage.number}" for stage in stages for name in ("wh", "bh")]
    parameters += [*_stored(cell), *_SIZES, "i64 n_x", "i64 saved_step"]
    most = max(stage.n_gates for stage in stages)
    lines = [*_BEGIN, *_load_weights(stages)]
    lines += [f"real* operand{stage.number} = allocate<real>(free, 2 * RNNX_ROWS * n4);" for stage in stages]
    lines.append(f"real* parts = allocate<real>(free, (i64)RNNX_PARTS * RNNX_ROWS * {most} * units);")
    lines += _of_elements([name for stage in stages for name in _entering(stage)])
    lines += ["for (int a = threadIdx.x; a < 2 * RNNX_ROWS * n4; a += RNNX_THREADS) {"]
    lines += [*(f"  operand{stage.number}[a] = real(0);" for stage in stages), "}"]
    lines += ["cluster_barrier();", "i64 t = -1;", _ELEMENTS, *_PLACE]
    lines += [f"  {name}[a] = load(S{k} + e);" for k, name in enumerate(_entering(stages[0]))]
    lines += ["  broadcast(operand0 + j * n4 + first + u, s0_0[a]);", "  (void)past_end;", "}", "cluster_barrier();"]
    lines += ["for (t = 0; t < n_steps; t++) {"]
    lines += [f"  {line}" for stage in stages for line in _forward_stage(stage)]
    return make_kernel("cluster_forward", parameters, [*lines, "}"], _ATTRIBUTES)


def _forward_stage(stage: StageWiring) -> list[str]:
    trace, writes, saves = trace_forward(stage)
    i, gates, next_stage = stage.number, stage.n_gates, 0 if stage.is_last else stage.number + 1
    now, later = "(t & 1) * RNNX_ROWS * n4", "((t + 1) & 1) * RNNX_ROWS * n4"
    lines = [f"product(w{i}, {gates} * units, stride, operand{i} + {now}, n4, parts);", "__syncthreads();"]
    lines += [_ELEMENTS, *_PLACE, "  const i64 selected = index ? index[t * m + j0 + j] : j0 + j;"]
    lines += ["  const bool valid = !index || (selected >= 0 && selected < n_x);"]
    lines += ["  const storage* x = zx + t * zx_step + selected * row + first + u;"]
    lines += [f"  const real p{k} = {name}[a];" for k, name in enumerate(_entering(stage))]
    for g in range(gates):
        at, here = f"{stage.first_gate + g} * n", f"{g} * units + u"
        lines.append(f'  const real zx{g} = (valid ? load(x + {at}) : real(nanf(""))) + load(b + {at} + first + u);')
        bias = f"(bh{i} ? load(bh{i} + {g} * n + first + u) : real(0))"
        lines.append(f"  const real zh{g} = sum_parts(parts, {gates} * units, j, {here}) + {bias};")
    lines += [f"  {line}" for line in trace.lines]
    for k, (slot, result) in enumerate(zip(stage.writes, writes, strict=True)):
        element = f"s{next_stage}_{k}[a]"
        if stage.is_last:
            lines += [f"  if (!past_end) {element} = {result};", f"  store({_at(slot)}, {element});"]
        else:
            lines += [f"  {element} = {result};"]
            lines += [f"  store({_at(slot, 'saved_step')}, past_end ? real(0) : {result});"]
    for slot, result in zip(stage.saves, saves, strict=True):
        lines.append(f"  store({_at(slot, 'saved_step')}, past_end ? real(0) : {result});")
    half = later if stage.is_last else now
    lines.append(f"  broadcast(operand{next_stage} + {half} + j * n4 + first + u, s{next_stage}_0[a]);")
    return [*lines, "}", "cluster_barrier();"]


# --- backward -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def backward_kernel(cell: Cell) -> Kernel:
    """Return the kernel ``cluster_backward``.

    Arrays have the names of `Backward`; dS<k> may be null. At the end, d_state<k> hold the cotangents of the initial
    states. In shared memory, d<i>_<k> hold those of what stage i reads.
    """
    stages, states = wiring(cell), range(len(cell.states))
    parameters = [f"const storage* dS{k}" for k in states]
    parameters += [f"const storage* wh{stage.number}" for stage in stages]
    parameters += [*_stored(cell), "storage* dZ"]
    parameters += [f"storage* dZh{stage.number}" for stage in stages if not stage.stage.additive]
    parameters += [*(f"real* d_state{k}" for k in states), *_SIZES]
    most = max(stage.n_gates for stage in stages)
    lines = [*_BEGIN, *_load_weights(stages)]
    lines += [f"real* dz = allocate<real>(free, (i64){most} * units * RNNX_ROWS);"]
    lines += ["real* parts = allocate<real>(free, (i64)RNNX_ROW_PARTS * RNNX_ROWS * n4);"]
    lines += ["real* received = allocate<real>(free, (i64)2 * RNNX_CLUSTER * RNNX_ROWS * units);"]
    lines += _of_elements([f"d{stage.number}_{k}" for stage in stages for k in range(len(stage.reads))])
    lines += ["i64 t = -1;", "int buffer = 0;", _ELEMENTS, *_PLACE, "  (void)past_end;"]
    lines += [f"  d0_{k}[a] = d_state{k}[e];" for k in states]
    lines += ["}", "cluster_barrier();", "for (t = n_steps - 1; t >= 0; t--) {"]
    lines += [f"  {line}" for stage in reversed(stages) for line in _backward_stage(stage)]
    lines += ["}", _ELEMENTS, *_PLACE, "  (void)past_end;"]
    lines += [f"  d_state{k}[e] = d0_{k}[a];" for k in states]
    return make_kernel("cluster_backward", parameters, [*lines, "}"], _ATTRIBUTES)


def _backward_stage(stage: StageWiring) -> list[str]:
    trace, dzx, dzh, d_reads = trace_backward(stage)
    i, gates, additive = stage.number, stage.n_gates, stage.stage.additive
    later_stage = 0 if stage.is_last else i + 1
    # Rows past an example's end or beyond m must not contribute to a product.
    lines = ["for (int a = threadIdx.x; a < RNNX_ROWS * units; a += RNNX_THREADS) {"]
    lines += [f"  dz[({g} * units + a % units) * RNNX_ROWS + a / units] = real(0);" for g in range(gates)]
    lines += ["}", _ELEMENTS, *_PLACE]
    lines.append(f"  storage* zx = dZ + (t * m + j0 + j) * row + {stage.first_gate} * n + first + u;")
    if not additive:
        lines.append(f"  storage* zh = dZh{i} + (t * m + j0 + j) * {gates} * n + first + u;")
    lines.append("  if (past_end) {")
    for side in ("zx",) if additive else ("zx", "zh"):
        lines += [f"    store({side} + {g} * n, real(0));" for g in range(gates)]
    lines += ["    continue;", "  }"]
    for k in range(len(stage.writes)):
        given = f" + (dS{k} ? load(dS{k} + t * m * n + e) : real(0))" if stage.is_last else ""
        lines.append(f"  const real d{k} = d{later_stage}_{k}[a]{given};")
    for letter, slots in (("p", stage.reads), ("q", stage.writes), ("k", stage.saves)):
        lines += [f"  {line}" for line in load(letter, map(_at, slots))]
    lines += [f"  {line}" for line in trace.lines]
    for g in range(gates):
        lines.append(f"  store(zx + {g} * n, {dzx[g]});")
        lines += [] if additive else [f"  store(zh + {g} * n, {dzh[g]});"]
        lines.append(f"  dz[({g} * units + u) * RNNX_ROWS + j] = {dzh[g]};")
    lines += [f"  d{i}_{k}[a] = {result};" for k, result in enumerate(d_reads)]
    lines += ["}", "__syncthreads();", f"product_back(w{i}, {gates} * units, stride, dz, n4, parts);"]
    now = "received + buffer * RNNX_CLUSTER * RNNX_ROWS * units"
    lines += ["__syncthreads();", f"send_to_owners(parts, (int)n, n4, units, rank, {now});", "cluster_barrier();"]
    sum_ = f"sum_blocks({now}, units, j, u)"
    lines += [_ELEMENTS, *_PLACE, f"  if (!past_end) d{i}_0[a] += {sum_};", "}", "buffer ^= 1;"]
    return lines
