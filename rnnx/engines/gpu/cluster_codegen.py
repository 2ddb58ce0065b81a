"""The CUDA source of whole passes for small hidden sizes: one kernel on thread block clusters.

Cells are traced as in `codegen`, but the kernel contains the loop over time and keeps the states in shared memory. The
building blocks are in ``kernels/cluster.cuh``. Dimensions as in `codegen`; `a` is an element of a block, example `j` of
the cluster by unit `u` of the block. A thread keeps the same elements in all steps.
"""

from functools import lru_cache

from rnnx.cells import Cell
from rnnx.cells.wiring import Slot, StageWiring, uses_means, wiring
from rnnx.engines.gpu.codegen import load
from rnnx.engines.gpu.device import DType
from rnnx.engines.gpu.kernel import Kernel, block, make_kernel, read, real_dtype
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.trace import ZERO, trace_backward, trace_forward

CLUSTER, THREADS = 8, 512  # blocks per cluster; threads per block
PARTS, ROW_PARTS = 4, 8  # threads per sum, which split its terms (forward) or the rows (backward)
_RESIDENT = 16  # clusters resident on an H200

_NAMES = {"CLUSTER": CLUSTER, "THREADS": THREADS, "PARTS": PARTS, "ROW_PARTS": ROW_PARTS}
_DEFINED = "".join(f"#define RNNX_{name} {value}\n" for name, value in _NAMES.items())
_ATTRIBUTES = f"__cluster_dims__({CLUSTER}, 1, 1) __launch_bounds__({THREADS}, 1) "
_BEGIN = (
    "RNNX_SHARED(unsigned char, shared);",
    "unsigned char* free = shared;",
    "const int rank = cluster_rank(), units = (int)((n + RNNX_CLUSTER - 1) / RNNX_CLUSTER), first = rank * units;",
    "const int count = first >= n ? 0 : n - first < units ? (int)(n - first) : units;",
    "const int n4 = (int)((n + 3) / 4 * 4), stride = n4 + 4;",
    "const i64 j0 = (i64)(blockIdx.x / RNNX_CLUSTER) * RNNX_ROWS;",
)
_ELEMENTS = "for (int a = threadIdx.x; a < RNNX_ROWS * units; a += RNNX_THREADS)"
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


def rows_per_cluster(key: PassKey, limit: int) -> int:
    """Return the examples per cluster, so that all clusters are resident if a block's memory `limit` allows.

    Return 0 if the weights do not fit in shared memory, or if the kernels do not support the cell.
    """
    cell = key.cell
    if (
        cell.vectors
        or cell.inputs
        or any(gate.sides != "xh" or gate.heads != 1 for gate in cell.gates)
        or any(map(uses_means, wiring(cell)))
    ):
        return 0
    choices = rows_choices(key.dtype.itemsize)
    enough = next((rows for rows in choices if -(-key.m // rows) <= _RESIDENT), choices[-1])
    return max((rows for rows in choices if rows <= enough and shared_bytes(key, rows) <= limit), default=0)


def rows_choices(itemsize: int) -> tuple[int, ...]:
    """Numbers of examples per cluster whose sums fit in registers."""
    return (1, 2, 4) if itemsize == 8 else (1, 2, 4, 8)


def shared_bytes(key: PassKey, rows: int) -> int:
    """Upper bound of the shared memory of a block, forward and backward."""
    stages, real, units, n4 = key.cell.stages, real_dtype(key.dtype), -(-key.n // CLUSTER), -(-key.n // 4) * 4
    gates = [len(stage.gates) for stage in stages]

    def array(count: int, dtype: DType = real) -> int:
        return -(-count * dtype.itemsize // 16) * 16

    weights = sum(array(g * units * (n4 + 4), key.dtype) for g in gates)
    states = max(len(stage.out) for stage in stages) + len(key.cell.states)
    own = (len(stages) + 1) * states * array(rows * units)
    forward = array(2 * rows * n4) * len(gates) + array(PARTS * rows * max(gates) * units)
    backward = array(rows * max(gates) * units) + array(ROW_PARTS * rows * n4) + array(2 * CLUSTER * rows * units)
    return weights + own + max(forward, backward)


def _for_elements(*body: str) -> list[str]:
    """Return a loop over the block's elements."""
    place = ["const int j = a / units, u = a - j * units;", "if (u >= count || j0 + j >= m) continue;"]
    place.append("const i64 e = (j0 + j) * n + first + u;")
    if any("past_end" in line for line in body):
        place.append("const bool past_end = lengths && t >= lengths[j0 + j];")
    return block(_ELEMENTS, [*place, *body])


def _load_weights(stages: tuple[StageWiring, ...]) -> list[str]:
    lines = []
    for stage in stages:
        i, gates = stage.number, stage.n_gates
        lines.append(f"storage* w{i} = allocate<storage>(free, (i64){gates} * units * stride);")
        lines.append(f"load_weights(w{i}, wh{i}, {gates}, units, first, count, (int)n, stride);")
    return lines


def _allocate_reads(letter: str, stages: tuple[StageWiring, ...]) -> list[str]:
    """Allocate <letter><i>_<k>, an array of the block's elements per value that stage i reads."""
    names = [f"{letter}{stage.number}_{k}" for stage in stages for k in range(len(stage.reads))]
    return [f"real* {name} = allocate<real>(free, RNNX_ROWS * units);" for name in names]


@lru_cache(maxsize=64)
def forward_kernel(cell: Cell) -> Kernel:
    """Return the kernel ``cluster_forward``.

    `zx` has rows of length `row`: with `index`, the packed input weights; else one per example, with stride `zx_step`
    between steps. `saved_step` is the stride of saved values. In shared memory, ``operand<i>`` is double-buffered, and
    s<i>_<k> hold the values that stage i reads.
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
    lines += _allocate_reads("s", stages)
    zeros = [f"operand{stage.number}[a] = real(0);" for stage in stages]
    lines += block("for (int a = threadIdx.x; a < 2 * RNNX_ROWS * n4; a += RNNX_THREADS)", zeros)
    initial = [f"s0_{k}[a] = load(S{k} + e);" for k in range(len(cell.states))]
    lines += ["cluster_barrier();", *_for_elements(*initial, "broadcast(operand0 + j * n4 + first + u, s0_0[a]);")]
    step = [line for stage in stages for line in _forward_stage(stage)]
    lines += ["cluster_barrier();", *block("for (i64 t = 0; t < n_steps; t++)", step)]
    return make_kernel("cluster_forward", parameters, lines, _ATTRIBUTES)


def _forward_stage(stage: StageWiring) -> list[str]:
    trace, writes, saves = trace_forward(stage)
    i, gates, next_stage = stage.number, stage.n_gates, 0 if stage.is_last else stage.number + 1
    now, later = "(t & 1) * RNNX_ROWS * n4", "((t + 1) & 1) * RNNX_ROWS * n4"
    body = ["const i64 selected = index ? index[t * m + j0 + j] : j0 + j;"]
    body.append("const bool valid = !index || (selected >= 0 && selected < n_x);")
    body.append("const storage* x = zx + t * zx_step + selected * row + first + u;")
    body += [f"const real p{k} = s{i}_{k}[a];" for k in range(len(stage.reads))]
    for g in range(gates):
        at, bias = f"{stage.first_gate + g} * n", f"(bh{i} ? load(bh{i} + {g} * n + first + u) : {ZERO})"
        body.append(f'const real zx{g} = (valid ? load(x + {at}) : real(nanf(""))) + load(b + {at} + first + u);')
        body.append(f"const real zh{g} = sum_parts<RNNX_PARTS>(parts, {gates} * units, j, {g} * units + u) + {bias};")
    body += trace.lines

    def store(slot: Slot, value: str) -> str:
        return f"store({_at(slot, 'saved_step')}, {value});"

    for k, (slot, result) in enumerate(zip(stage.writes, writes, strict=True)):
        element = f"s{next_stage}_{k}[a]"
        if stage.is_last:
            body += [f"if (!past_end) {element} = {result};", store(slot, element)]
        else:
            body += [f"{element} = {result};", store(slot, f"past_end ? {ZERO} : {result}")]
    body += [store(slot, f"past_end ? {ZERO} : {result}") for slot, result in zip(stage.saves, saves, strict=True)]
    half = later if stage.is_last else now
    body.append(f"broadcast(operand{next_stage} + {half} + j * n4 + first + u, s{next_stage}_0[a]);")
    product = f"product(w{i}, {gates} * units, stride, operand{i} + {now}, n4, parts);"
    return [product, "__syncthreads();", *_for_elements(*body), "cluster_barrier();"]


@lru_cache(maxsize=64)
def backward_kernel(cell: Cell) -> Kernel:
    """Return the kernel ``cluster_backward``.

    Arrays have the names of `Backward`; dS<k> may be null. At the end, d_state<k> hold the cotangents of the initial
    states. In shared memory, d<i>_<k> hold those of the values that stage i reads.
    """
    stages, states = wiring(cell), range(len(cell.states))
    parameters = [f"const storage* dS{k}" for k in states]
    parameters += [f"const storage* wh{stage.number}" for stage in stages]
    parameters += [*_stored(cell), "storage* dZ"]
    parameters += [f"storage* dZh{stage.number}" for stage in stages if not stage.stage.additive]
    parameters += [*(f"real* d_state{k}" for k in states), *_SIZES]
    most = max(stage.n_gates for stage in stages)
    lines = [*_BEGIN, *_load_weights(stages)]
    lines.append(f"real* dz = allocate<real>(free, (i64){most} * units * RNNX_ROWS);")
    lines.append("real* parts = allocate<real>(free, (i64)RNNX_ROW_PARTS * RNNX_ROWS * n4);")
    lines.append("real* received = allocate<real>(free, (i64)2 * RNNX_CLUSTER * RNNX_ROWS * units);")
    lines += [*_allocate_reads("d", stages), "int buffer = 0;"]
    lines += [*_for_elements(*(f"d0_{k}[a] = d_state{k}[e];" for k in states)), "cluster_barrier();"]
    step = [line for stage in reversed(stages) for line in _backward_stage(stage)]
    lines += block("for (i64 t = n_steps - 1; t >= 0; t--)", step)
    lines += _for_elements(*(f"d_state{k}[e] = d0_{k}[a];" for k in states))
    return make_kernel("cluster_backward", parameters, lines, _ATTRIBUTES)


def _backward_stage(stage: StageWiring) -> list[str]:
    trace, rows, d_reads, _ = trace_backward(stage)
    dzx, dzh = rows["dzx"], rows.get("dzh", rows["dzx"])
    i, gates, later_stage = stage.number, range(stage.n_gates), 0 if stage.is_last else stage.number + 1
    sides = {"zx": (f"dZ + (t * m + j0 + j) * row + {stage.first_gate} * n", dzx)}
    if not stage.stage.additive:
        sides["zh"] = (f"dZh{i} + (t * m + j0 + j) * {stage.n_gates} * n", dzh)
    body = [f"storage* {side} = {row} + first + u;" for side, (row, _) in sides.items()]
    zeros = [f"store({side} + {g} * n, {ZERO});" for side in sides for g in gates]
    body += block("if (past_end)", [*zeros, "continue;"])
    for k in range(len(stage.writes)):
        given = f" + (dS{k} ? load(dS{k} + t * m * n + e) : {ZERO})" if stage.is_last else ""
        body.append(f"const real d{k} = d{later_stage}_{k}[a]{given};")
    for letter, slots in (("p", stage.reads), ("q", stage.writes), ("k", stage.saves)):
        body += load(letter, map(_at, slots))
    body += trace.lines
    for g in gates:
        body += [f"store({side} + {g} * n, {results[g]});" for side, (_, results) in sides.items()]
        body.append(f"dz[({g} * units + u) * RNNX_ROWS + j] = {dzh[g]};")
    body += [f"d{i}_{k}[a] = {result};" for k, result in enumerate(d_reads)]
    # Rows past an example's end or beyond m must not contribute to a product.
    zeros = [f"dz[({g} * units + a % units) * RNNX_ROWS + a / units] = {ZERO};" for g in gates]
    now = "received + buffer * RNNX_CLUSTER * RNNX_ROWS * units"
    return [
        *(*block(_ELEMENTS, zeros), *_for_elements(*body), "__syncthreads();"),
        *(f"product_back(w{i}, {stage.n_gates} * units, stride, dz, n4, parts);", "__syncthreads();"),
        *(f"send_to_owners(parts, (int)n, n4, units, rank, {now});", "cluster_barrier();"),
        *_for_elements(f"if (!past_end) d{i}_0[a] += sum_parts<RNNX_CLUSTER>({now}, units, j, u);"),
        "buffer ^= 1;",
    ]
