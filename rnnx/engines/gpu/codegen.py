"""The CUDA source of a cell's step kernels, generated from its traced functions.

A kernel runs one stage of one time step, with one thread per element of the state, or, if the stage has means over
units, one block per example, see `means`. Dimensions: m examples, n units; j an example, u a unit, e = j n + u; t the
time step.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from rnnx.cells import Cell
from rnnx.cells.operations import uses_means
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu import copies, means
from rnnx.engines.gpu.device import DType
from rnnx.engines.gpu.kernel import Kernel, LaunchSize, block, make_kernel, read
from rnnx.engines.gpu.trace import ZERO, trace_backward, trace_forward

THREADS = 128  # threads per block of the step kernels without means
FINAL_STATE = Slot("state", 0, after=True)  # what the recurrent product of the next step multiplies


@lru_cache(maxsize=64)
def sources(cell: Cell) -> tuple[str, str]:
    """Return the sources of the kernels common to all cells, and of the cell's own."""
    kernels = [kernel for stage in wiring(cell) for kernel in (forward_kernel(stage), backward_kernel(stage))]
    common = "\n".join([read("prelude.cuh"), copies.source(), read("layout.cu")])
    sums = [means.source()] if any(map(uses_means, wiring(cell))) else []
    return common, "\n".join([read("prelude.cuh"), *sums, *(kernel.text for kernel in kernels)])


def name_of(argument: Argument) -> str:
    """Return the parameter name of a wiring argument."""
    return argument.role if argument.per_gate else f"{argument.role}{argument.number}"


def load(letter: str, places: Iterable[str]) -> list[str]:
    """Return lines that load the variables letter0, letter1, ... from addresses."""
    return [f"const real {letter}{k} = load({place});" for k, place in enumerate(places)]


def launch_size(kernel: Kernel, m: int, n: int, dtype: DType) -> LaunchSize:
    """Return the size of a launch of a step kernel."""
    if kernel.n_sums is None:
        return LaunchSize(kernel.name, -(-m * n // THREADS), THREADS)
    return means.launch_size(kernel, m, n, dtype)


def _elements(role: str, slots: Sequence[Slot]) -> list[str]:
    return [f"{role}{k} + e" for k in range(len(slots))]


_ELEMENT = (
    "const unsigned e = blockIdx.x * blockDim.x + threadIdx.x;",
    "if (e >= m * n) return;",
    "const unsigned j = e / (unsigned)n, u = e - j * (unsigned)n;",
)
_SIZES = ("const i64* lengths", "i64 t", "i64 m", "i64 n", "i64 row", "i64 hrow")


def forward_arrays(stage: StageWiring) -> list[Argument]:
    """Return the values that the forward kernel reads and writes, and "previous", states it does not read itself."""
    arrays = [argument for argument in stage.forward_arguments() if not argument.per_gate]
    if stage.is_last and stage.number:
        arrays += [Argument("previous", k, slot._replace(after=False)) for k, slot in enumerate(stage.writes)]
    return arrays


def forward_sides(stage: StageWiring) -> list[str]:
    """Return the parameters of the forward kernel for the sides that the stage's gates have."""
    present = {"zx": stage.n_zx, "zh": stage.n_zh, "b": stage.n_zx, "bh": stage.n_zh}
    return [name for name, count in present.items() if count]


_SELECTED = (
    "const i64 selected = index ? index[j] : (i64)j;",
    "const bool valid = !index || (selected >= 0 && selected < n_x);",
)


def _sides(stage: StageWiring) -> list[str]:
    """Return lines that load the arguments of the forward function."""
    lines = []
    if stage.n_zx:
        lines.append("const storage* x = zx + selected * row + u;")
    if stage.n_zh:
        lines.append("const storage* h = zh ? zh + j * hrow + u : zh;")
    lines += [*load("p", _elements("reads", stage.reads)), *_load_given(stage)]
    for g in range(max(stage.n_zx, stage.n_zh)):
        if g < stage.n_zx:
            lines.append(f'const real zx{g} = (valid ? load(x + {g} * n) : real(nanf(""))) + load(b + {g} * n + u);')
        if g < stage.n_zh:
            bias = f"(bh ? load(bh + {g} * n + u) : {ZERO})"
            lines.append(f"const real zh{g} = (zh ? load(h + {g} * n) : {ZERO}) + {bias};")
    return lines


def _load_given(stage: StageWiring) -> list[str]:
    """Return lines that load the vectors and extra inputs."""
    places = {"vector": "u", "input": "e"}
    return load("g", (f"given{k} + {places[slot.kind]}" for k, slot in enumerate(stage.vectors + stage.inputs)))


@lru_cache(maxsize=256)
def forward_kernel(stage: StageWiring) -> Kernel:
    """Return the kernel ``forward_<stage>``.

    `zx` has rows of length `row`: one per example, or one per input, selected by `index`. `zh`, with rows of length
    `hrow`, is null if it was added to `zx`. `b` and `bh` are the biases; `bh` may be null. An index out of range gives
    NaN, because checking would synchronize. Past an example's end, states are copied and other results are zero. A side
    that no gate has is no parameter.
    """
    pointers = [f"const storage* {name}" for name in forward_sides(stage)]
    pointers += ["const i64* index", *(f"storage* {name_of(argument)}" for argument in forward_arrays(stage))]
    trace, writes, saves = trace_forward(stage)
    selected, past_end = _SELECTED[: 2 * bool(stage.n_zx)], "const bool past_end = lengths && t >= lengths[j];"
    loads, stores = _sides(stage), []
    for k, result in enumerate(writes):
        previous = f"load(previous{k} + e)" if stage.number else f"p{k}"
        stores.append(f"store(writes{k} + e, past_end ? {previous if stage.is_last else ZERO} : {result});")
    stores += [f"store(saves{k} + e, past_end ? {ZERO} : {result});" for k, result in enumerate(saves)]
    name, parameters = f"forward_{stage.number}", (*pointers, *_SIZES, "i64 n_x")
    if trace.has_means:
        return means.make_kernels(name, parameters, [*selected, past_end], loads, trace.lines, stores)
    return make_kernel(name, parameters, [*_ELEMENT, *selected, *loads, *trace.lines, past_end, *stores])


@lru_cache(maxsize=256)
def backward_kernel(stage: StageWiring) -> Kernel:
    """Return the kernel ``backward_<stage>``. The pointers "d_given" may be null.

    Past an example's end, dzx, dzh and the cotangents of extra inputs are zero, and those of the states are unchanged.
    The next product would still make them NaN if a weight is infinite, so an example's last step reads `d_final0`
    instead.
    """
    trace, rows, d_reads, d_inputs = trace_backward(stage)
    strides, sides = {"dzx": "row", "dzh": "hrow"}, {side: row for side, row in rows.items() if row}
    places = [f"storage* {side}_row = {side} + j * {strides[side]} + u;" for side in sides]
    targets = [(f"{side}_row + {g} * n", result) for side, row in sides.items() for g, result in enumerate(row)]
    targets += [(f"d_inputs{k} + e", result) for k, result in enumerate(d_inputs)]
    ended, zeros = "if (lengths && t >= lengths[j])", [f"store({target}, {ZERO});" for target, _ in targets]
    loads = []
    for k, slot in enumerate(stage.writes):
        given = f" + (d_given{k} ? load(d_given{k} + e) : {ZERO})" if stage.is_last else ""
        value = f"d_writes{k}[e]"
        if slot == FINAL_STATE:
            value = f"(lengths && t + 1 == lengths[j] ? d_final0 : d_writes{k})[e]"
        loads.append(f"const real d{k} = {value}{given};")
    for letter, role in (("p", "reads"), ("q", "writes"), ("k", "saves")):
        loads += load(letter, _elements(role, getattr(stage, role)))
    loads += _load_given(stage)
    stores = [f"store({target}, {result});" for target, result in targets]
    for k, result in enumerate(d_reads):
        # Without lengths, the recurrent product overwrites it, so a zero need not be stored.
        overwritten = stage.n_zh and stage.reads[k] == stage.operand
        guard = "if (lengths) " if overwritten and result == ZERO else ""
        stores.append(f"{guard}d_reads{k}[e] = {result};")
    types = {"d_writes": "real*", "d_reads": "real*"}  # the carried cotangents; all else is stored
    arrays = [f"{types.get(argument.role, 'storage*')} {name_of(argument)}" for argument in stage.backward_arguments()]
    arrays += ["const real* d_final0"] if FINAL_STATE in stage.writes else []
    name, parameters = f"backward_{stage.number}", (*arrays, *_SIZES)
    if trace.has_means:
        head = block(ended, [*means.over_units([*places, *zeros]), "return;"])
        return means.make_kernels(name, parameters, head, loads, trace.lines, [*places, *stores])
    head = [*_ELEMENT, *places, *block(ended, [*zeros, "return;"])]
    return make_kernel(name, parameters, [*head, *loads, *trace.lines, *stores])
