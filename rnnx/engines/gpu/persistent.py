"""The CUDA source of persistent kernels: a whole pass in one kernel, on groups of thread blocks.

Cells are traced as in `codegen`, but the kernel contains the loop over time, and the states stay in registers. Its
parts are in ``kernels/persistent.cuh``, `geometry` divides the work. In a step, each stage that has a recurrent product
receives its operand, multiplies, and then runs the cell's mathematics with one thread per example `j` of the group and
unit `u` of the block; these threads send the next operand to all blocks. They load what the next step reads
before they wait for its operand.

Dimensions: T steps, m examples, n units; `unit` is u in the whole layer, `e` the element of (m, n).
"""

from collections.abc import Iterable
from functools import lru_cache

from rnnx.cells import Cell
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.gpu.geometry import COUNT_WORDS, Geometry
from rnnx.engines.gpu.kernel import Kernel, block, make_kernel, read
from rnnx.engines.gpu.pass_key import Layout
from rnnx.engines.gpu.trace import ZERO, trace_backward, trace_forward

_SIZES = ("const i64* lengths", "i64 n_steps", "i64 m", "i64 n", "i64 row")
_BEGIN = (
    "RNNX_SHARED(unsigned char, shared);",
    "const int u = threadIdx.x % RNNX_UNITS, j = threadIdx.x / RNNX_UNITS;",
    "const int first = (int)(blockIdx.x % RNNX_GROUP) * RNNX_UNITS, unit = first + u;",
    "const i64 group = blockIdx.x / RNNX_GROUP, example = group * RNNX_EXAMPLES + j, e = example * n + unit;",
    "const bool element = j < RNNX_EXAMPLES, inside = element && unit < n && example < m;",
    "const i64 length = inside && lengths ? lengths[example] : n_steps;",
    "const int steps = (int)n_steps, end = length < n_steps ? (int)length : steps;",
)


@lru_cache(maxsize=256)
def source(geometry: Geometry, kernel: Kernel) -> str:
    """Return the source of a persistent kernel."""
    names = {"CLUSTER": geometry.cluster, "UNITS": geometry.units, "WARPS": geometry.warps}
    names |= {"GROUP": geometry.blocks_of_group, "GRID": int(geometry.grid), "EXAMPLES": geometry.examples}
    names |= {"TENSOR": int(geometry.tensor), "WARP_ROWS": geometry.warp_rows}
    defined = "".join(f"#define RNNX_{name} {value}\n" for name, value in names.items())
    return "\n".join([defined, *map(read, ("prelude.cuh", "instructions.cuh", "persistent.cuh")), kernel.text])


def _attributes(geometry: Geometry) -> str:
    return f"__cluster_dims__({geometry.cluster}, 1, 1) __launch_bounds__({geometry.threads}, 1) "


def _of_group(geometry: Geometry) -> tuple[str, ...]:
    """Return the parameters with which the blocks of a grid communicate: see `Pass.group_shapes`."""
    return ("unsigned char* operands", "i64* counts") if geometry.grid else ()


def _stored(cell: Cell) -> list[str]:
    """Return the parameters for the recurrent weights, states, saved values, vectors and extra inputs."""
    weights = [f"const storage* wh{stage.number}" for stage in wiring(cell) if stage.n_zh]
    counts = {"S": len(cell.states), "K": len(cell.saved)}
    arrays = [f"storage* {letter}{k}" for letter, count in counts.items() for k in range(count)]
    counts = {"v": len(cell.vectors), "E": len(cell.inputs)}
    return weights + arrays + [f"const storage* {letter}{k}" for letter, count in counts.items() for k in range(count)]


def _name(slot: Slot) -> str:
    """Return the variable of a slot's value."""
    return f"{slot.kind}{slot.number}{'_after' * slot.after}"


def _at(slot: Slot, saved_step: str = "m * n") -> str:
    """Return the address of an element of a slot at step t."""
    if slot.kind == "vector":
        return f"v{slot.number} + unit"
    if slot.kind == "state":
        return f"S{slot.number} + {'(t + 1)' if slot.after else 't'} * m * n + e"
    return f"K{slot.number} + t * {saved_step} + e" if slot.kind == "saved" else f"E{slot.number} + t * m * n + e"


def _values(loads: dict[str, str]) -> list[str]:
    """Return lines that declare variables, and load them where there is an element."""
    return [f"const real {name} = inside ? {value} : {ZERO};" for name, value in loads.items()]


def _fetch(loads: dict[str, str], head: Iterable[str] = ()) -> list[str]:
    """Return lines that declare variables, and the function that loads them for a step."""
    declared = [f"real {name} = {ZERO};" for name in loads]
    lines = [*head, *(f"{name} = {value};" for name, value in loads.items())]
    function = block("auto fetch = [&](int t)", block("if (inside)", lines))
    return [*declared, *function[:-1], "};"]


def _given(stage: StageWiring) -> list[str]:
    return [f"const real g{k} = {_name(slot)};" for k, slot in enumerate(stage.vectors + stage.inputs)]


def _products(cell: Cell, geometry: Geometry, *, backward: bool) -> list[str]:
    """Return lines that load the weights, prepare the exchanges, and reserve shared memory."""
    lines: list[str] = []
    offset = 0
    shapes = geometry.products(cell, backward=backward)
    recurrent = [shape for shape in shapes if shape]
    of_group, published = sum(map(geometry.published_bytes, recurrent)), 0
    for i, (stage, shape) in enumerate(zip(wiring(cell), shapes, strict=True)):
        if shape is None:
            continue
        place = "row / RNNX_UNITS, first + row % RNNX_UNITS, k"
        if backward:
            place = f"k / {geometry.padded}, k % {geometry.padded}, first + row"
        of_row = f"[&](int row, int k) {{ return weight(wh{i}, {stage.n_zh}, n, {place}); }}"
        size = geometry.operand_bytes(shape)
        parts = f"(Chunk*)(shared + {offset}), (ByteCounter*)(shared + {offset + size})"
        if geometry.grid:
            count = f"(group * {len(recurrent)} + {sum(map(bool, shapes[:i]))}) * {COUNT_WORDS}"
            parts += f", (Chunk*)(operands + group * {of_group} + {published}), (unsigned*)(counts + {count})"
            published += geometry.published_bytes(shape)
        lines += [f"Product<{shape.rows}, {shape.k}, {shape.split}> w{i};", f"w{i}.load({of_row}, shared);"]
        lines.append(f"const Exchange<{shape.sent}, {shape.k}> x{i}{{{parts}}};")
        offset += size + 16
    starts = [f"x{i}.start();" for i, shape in enumerate(shapes) if shape]
    return [*lines, f"real* sums = (real*)(shared + {offset});", "__syncthreads();", *starts, "cluster_barrier();"]


@lru_cache(maxsize=256)
def forward_kernel(cell: Cell, geometry: Geometry) -> Kernel:
    """Return the kernel ``persistent_forward``.

    `zx` has rows of length `row`: with `index`, the packed input weights; else one per example, with stride `zx_step`
    between steps. `saved_step` is the stride of saved values. Variables s<i>_<k> hold the values that stage i reads.
    """
    stages, starts = wiring(cell), Layout.of(cell, 1).zx
    biases = [f"const storage* bh{stage.number}" for stage in stages if _recurrent_biases(stage)]
    parameters = ["const storage* zx", "i64 zx_step", "const i64* index", "const storage* b", *biases, *_stored(cell)]
    parameters += [*_SIZES, "i64 n_x", "i64 saved_step", *_of_group(geometry)]
    fixed = {_name(slot): f"load({_at(slot)})" for stage in stages for slot in stage.vectors}
    loads: dict[str, str] = {}
    head: list[str] = []
    for stage, start in zip(stages, starts, strict=False):
        for g in range(stage.n_zx):
            fixed[f"b{stage.number}_{g}"] = f"load(b + {start + g} * n + unit)"
            loads[f"zx{stage.number}_{g}"] = f'valid ? load(x + {start + g} * n) : real(nanf(""))'
        for g in _recurrent_biases(stage):
            place = f"bh{stage.number} + {g} * n + unit"
            fixed[f"bh{stage.number}_{g}"] = f"(bh{stage.number} ? load({place}) : {ZERO})"
    if loads:
        head = ["const i64 selected = index ? index[t * m + example] : example;"]
        head.append("const bool valid = !index || (selected >= 0 && selected < n_x);")
        head.append("const storage* x = zx + t * zx_step + selected * row + unit;")
    loads |= {_name(slot): f"load({_at(slot)})" for stage in stages for slot in stage.inputs}
    lines = [*_BEGIN, *_products(cell, geometry, backward=False), *_values(fixed), *_fetch(loads, head)]
    for stage in stages:
        start_of = [f"inside ? load(S{k} + e) : {ZERO}" if not stage.number else ZERO for k in range(len(stage.reads))]
        lines += [f"real s{stage.number}_{k} = {value};" for k, value in enumerate(start_of)]
    if stages[0].n_zh:
        lines.append("if (element) x0.send(0, unit, j, s0_0);")
    step = [line for stage in stages for line in _forward_stage(stage, stages)]
    lines += ["fetch(0);", *block("for (int t = 0; t < steps; t++)", ["const bool past_end = t >= end;", *step])]
    return make_kernel("persistent_forward", parameters, lines, _attributes(geometry))


def _recurrent_biases(stage: StageWiring) -> list[int]:
    """Return the recurrent gates that may have a recurrent bias."""
    return [g for g, gate in enumerate(stage.stage.recurrent) if gate.recurrent_bias]


def _forward_stage(stage: StageWiring, stages: tuple[StageWiring, ...]) -> list[str]:
    trace, writes, saves = trace_forward(stage)
    i, biases = stage.number, _recurrent_biases(stage)
    following = stages[0] if stage.is_last else stages[i + 1]
    body = [f"const real p{k} = s{i}_{k};" for k in range(len(stage.reads))] + _given(stage)
    body += [f"const real zx{g} = zx{i}_{g} + b{i}_{g};" for g in range(stage.n_zx)]
    for g in range(stage.n_zh):
        bias = f" + bh{i}_{g}" if g in biases else ""
        body.append(f"const real zh{g} = w{i}.sum(sums, j, {g} * RNNX_UNITS + u){bias};")
    body += trace.lines
    results = [f"s{following.number}_{k}" for k in range(len(writes))]
    guard = "if (!past_end) " if stage.is_last else ""
    body += [f"{guard}{name} = stored({result});" for name, result in zip(results, writes, strict=True)]
    if following.n_zh:
        turn, guard = ("t + 1", "if (t + 1 < steps) ") if stage.is_last else ("t", "")
        body.append(f"{guard}x{following.number}.send({turn}, unit, j, inside ? {results[0]} : {ZERO});")
    values = [name if stage.is_last else f"past_end ? {ZERO} : {name}" for name in results]
    stores = [f"store({_at(slot, 'saved_step')}, {value});" for slot, value in zip(stage.writes, values, strict=True)]
    for slot, result in zip(stage.saves, saves, strict=True):
        stores.append(f"store({_at(slot, 'saved_step')}, past_end ? {ZERO} : {result});")
    body += block("if (inside)", stores)
    if stage.is_last:
        body.append("if (t + 1 < steps) fetch(t + 1);")
    product = [f"w{i}(x{i}.receive(t), sums);", "__syncthreads();"] if stage.n_zh else []
    return [*product, *block("if (element)", body)]


@lru_cache(maxsize=256)
def backward_kernel(cell: Cell, geometry: Geometry) -> Kernel:
    """Return the kernel ``persistent_backward``.

    Arrays have the names of `Backward`; dS<k> may be null. At the end, d_state<k> hold the cotangents of the initial
    states. The variables d<i>_<k> hold those of the values that stage i reads; past an example's end they keep them.
    """
    stages, states = wiring(cell), range(len(cell.states))
    parameters = [*(f"const storage* dS{k}" for k in states), *_stored(cell), "storage* dZ"]
    parameters += [f"storage* dZh{stage.number}" for stage in stages if stage.n_zh and not stage.stage.additive]
    parameters += [f"storage* dE{k}" for k in range(len(cell.inputs))]
    parameters += [*(f"real* d_state{k}" for k in states), *_SIZES, *_of_group(geometry)]
    fixed = {_name(slot): f"load({_at(slot)})" for stage in stages for slot in stage.vectors}
    loads = {f"given{k}": f"dS{k} ? load(dS{k} + t * m * n + e) : {ZERO}" for k in states}
    for stage in stages:
        slots = (*stage.reads, *stage.writes, *stage.saves, *stage.inputs)
        loads |= {_name(slot): f"load({_at(slot)})" for slot in slots}
    lines = [*_BEGIN, *_products(cell, geometry, backward=True), *_values(fixed), *_fetch(loads)]
    for stage in stages:
        start_of = [f"inside ? d_state{k}[e] : {ZERO}" if not stage.number else ZERO for k in range(len(stage.reads))]
        lines += [f"real d{stage.number}_{k} = {value};" for k, value in enumerate(start_of)]
    step = ["const int t = steps - 1 - turn;", "const bool past_end = t >= end;"]
    step += [line for stage in reversed(stages) for line in _backward_stage(cell, stage, geometry)]
    lines += ["fetch(steps - 1);", *block("for (int turn = 0; turn < steps; turn++)", step)]
    lines += block("if (inside)", (f"d_state{k}[e] = d0_{k};" for k in states))
    return make_kernel("persistent_backward", parameters, lines, _attributes(geometry))


def _backward_stage(cell: Cell, stage: StageWiring, geometry: Geometry) -> list[str]:
    trace, rows, d_reads, d_inputs = trace_backward(stage)
    i, later = stage.number, 0 if stage.is_last else stage.number + 1
    body = []
    for k in range(len(stage.writes)):
        body.append(f"const real d{k} = d{later}_{k}{f' + given{k}' * stage.is_last};")
    for letter, slots in (("p", stage.reads), ("q", stage.writes), ("k", stage.saves)):
        body += [f"const real {letter}{k} = {_name(slot)};" for k, slot in enumerate(slots)]
    body += [*_given(stage), *trace.lines]
    for g, result in enumerate(rows.get("dzh", rows["dzx"])[: stage.n_zh]):
        value = f"inside && !past_end ? {result} : {ZERO}"
        body.append(f"x{i}.send(turn, {g * geometry.padded} + unit, j, {value});")
    starts = {"dzx": f"dZ + (t * m + example) * row + {Layout.of(cell, 1).dz[i]} * n + unit"}
    starts["dzh"] = f"dZh{i} + (t * m + example) * {stage.n_zh} * n + unit"
    targets = [(f"{starts[side]} + {g} * n", result) for side, row in rows.items() for g, result in enumerate(row)]
    targets += [
        (f"dE{slot.number} + t * m * n + e", result) for slot, result in zip(stage.inputs, d_inputs, strict=True)
    ]
    body += block("if (inside)", (f"store({target}, past_end ? {ZERO} : {result});" for target, result in targets))
    body += block("if (!past_end)", (f"d{i}_{k} = {result};" for k, result in enumerate(d_reads)))
    if not i:
        body.append("if (t) fetch(t - 1);")
    lines = block("if (element)", body)
    if stage.n_zh:
        lines += [f"w{i}(x{i}.receive(turn), sums);", "__syncthreads();"]
        lines.append(f"if (element && !past_end) d{i}_0 += w{i}.sum(sums, j, u);")
    return lines
