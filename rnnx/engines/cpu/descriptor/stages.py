"""What forward and backward passes share: the choice of threads, parameters, stages and their kernels."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.gate import Gate
from rnnx.cells.parameters import expected_shapes
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import n_vectors
from rnnx.engines.cpu.codegen.phases import Job, Phase, n_kept, phases_of
from rnnx.engines.cpu.codegen.pointwise import dependencies, emit_kernels
from rnnx.engines.cpu.descriptor.builder import Arrays, Fields, PassKey, Places, Template, Within
from rnnx.engines.cpu.descriptor.layout import Block
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import LINE
from rnnx.engines.cpu.runtime.sharing import Shareable
from rnnx.engines.cpu.runtime.work import Work


class Pass(Shareable[Sequence[np.ndarray]]):
    """A pass, which is given its arrays, with a descriptor template for each way to share it among threads."""

    job: Job
    arrays: tuple[str, ...]  # of a call; the first ones, `blocks`, are memory of blocks
    blocks = 1
    within: Within = MappingProxyType({})  # arrays at an offset in another one
    times: int  # the multiplications of a forward pass
    after_loop = 0  # sections of the job after the loop over time
    between_steps = False  # whether sections of the loop end in the middle of a step, so that there is one more

    def __init__(self, key: PassKey, given: tuple[bool, ...]) -> None:
        cell, dtype, n_steps, m, n, n_x, indices, keys, *_ = key
        self.key, self.given = key, given  # for which states the caller gives cotangents
        shapes = expected_shapes(cell, n_x, n)
        self.kept = Block(dtype, [shapes[name][1] for name in keys])  # copies of the parameters
        # Multiplications of a forward pass.
        sizes = [(stage.units(n), stage.n_zh * stage.columns(n), stage.n_zx) for stage in wiring(cell)]
        products = n_steps * m * sum(units * (of_h + (0 if indices else n_x * n_zx)) for units, of_h, n_zx in sizes)
        shares = -(-n_vectors(dtype, n) // self.unit_vectors())
        arrays = 2 * len(cell.states) + len(cell.saved) + len(cell.gates) + len(cell.inputs)
        if cell.has_widths or any(stage.heads > 1 or self.phases(stage) for stage in wiring(cell)):
            shares = 0
        self.steps = n_steps * len(wiring(cell)) + self.between_steps
        row = n * dtype.itemsize
        lines = arrays if row % LINE else 0
        weights = sum(units * of_h for units, of_h, _ in sizes)
        read = max(map(self.read, wiring(cell))) * dtype.itemsize
        numbers = n_steps * m * n * arrays
        work = Work(
            *(n_steps, m, self.times * products, numbers, shares, lines, sum(of_h > 0 for _, of_h, _ in sizes)),
            *(read, weights, dtype.itemsize, 0 if cell.has_widths or key.has_lengths else row),
        )
        super().__init__(work)

    def fill(self, t: Template) -> dict[str, int]:
        """Set a template's fields; return the parts of a thread's scratch memory, with sizes in bytes."""
        raise NotImplementedError

    def unit_vectors(self) -> int:
        """Return in multiples of how many unit vectors slices share the units: each begins a micro-panel."""
        raise NotImplementedError

    def read(self, wired: StageWiring) -> int:
        """Return the numbers per example and step that unit-parallel slices read from each other."""
        raise NotImplementedError

    def phases(self, wired: StageWiring) -> tuple[Phase, ...]:
        """Return the phases of a stage whose kernel takes whole rows."""
        return phases_of(wired, self.job, self.given)

    def stage(self, t: Template, wired: StageWiring, parameters: Mapping[str, int], places: Places) -> Fields:
        """Return the fields of a stage that both directions use."""
        kernels, name = kernels_of(self.key.cell, t.dtype, self.given), f"{self.job}_{wired.number}"
        operand, step = places[wired.operand]
        n_head = wired.columns(t.n)
        gates = [_gate(t, gate, parameters, n_head * t.item) for gate in wired.stage.gates]
        phases = self.phases(wired)
        kernel = {"kernel": kernels[name], "kernel_tail": kernels.get(f"{name}_tail", 0)}
        kernel |= {"whole_rows": bool(phases), "kept_rows": n_kept(phases)}
        flags = {"adds_sides": wired.adds_sides, "is_last": wired is wiring(self.key.cell)[-1]}
        counts = {"n_zh": wired.n_zh, "n_zx": wired.n_zx, "heads": wired.heads, "n_head": n_head}
        counts["head_size"] = t.packed(n_head, t.vectors(n_head))
        n, n_operand = wired.units(t.n), wired.operand_units(t.n)
        counts |= {
            "n": n,
            "n_operand": n_operand,
            "unit_vectors": t.vectors(n),
            "operand_vectors": t.vectors(n_operand),
        }
        return {**flags, **counts, **kernel, "gates": gates, "operand": operand, "operand_step": step}

    def scratch(self, t: Template, rows: int) -> dict[str, int]:
        """Return the parts of a thread's scratch memory for lists of examples and, with lengths, `rows` numbers."""
        m = t.m if self.key.has_lengths else t.rows
        return {"examples": 8 * m, "rows": rows * t.item if self.key.has_lengths else 0}

    def units(self, name: str) -> int:
        """Return the number of units of a state, saved value or input."""
        return self.key.cell.size(name, self.key.n)

    def places(
        self, t: Template, values: Sequence[int], parameters: Mapping[str, int], along: int, along_saved: int
    ) -> Places:
        """Return the places of all values.

        `values` are the addresses of the initial states, the saved values and the extra inputs, `parameters` those of
        the parameters by key. `along` and `along_saved` are the steps from one state or saved value to the next: 1, -1
        or 0.
        """
        cell = self.key.cell
        n_states, n_saved = len(cell.states), len(cell.saved)
        steps = [t.m * self.units(name) * t.item for name in (*cell.states, *cell.saved, *cell.inputs)]
        places: Places = {Slot("vector", k): (parameters[key], 0) for k, key in enumerate(cell.vectors)}
        for k, at in enumerate(values):
            step = steps[k]
            if k < n_states:
                step *= along
                places |= {Slot("state", k): (at, step), Slot("state", k, after=True): (at + step, step)}
            elif k < n_states + n_saved:
                places[Slot("saved", k - n_states)] = at, step * along_saved
            else:
                places[Slot("input", k - n_states - n_saved)] = at, step
        return places

    def divide(self, threads: int, unit_parallel: bool) -> Template:
        """Return the descriptor template for a number of threads."""
        units, arrays = self.unit_vectors() if unit_parallel else 0, Arrays(self.arrays, self.blocks)
        steps, waits = self.steps, unit_parallel and self.work.waits > 0
        per_thread = 1 if unit_parallel else self.work.slices_per_thread(threads, steps)
        slices = threads * per_thread
        t = Template(self.job, self.key, arrays, self.within, slices, units, per_thread)
        t.divide(steps if waits else self.work.sections(slices, steps), self.after_loop, waits)
        return t.finish(self.work.is_small, **self.fill(t))


def multiplies_once(key: PassKey) -> bool:
    """Return whether a pass is a single step with whole matrices, so that packing its weights hardly pays."""
    return key.n_steps == 1 and not key.indices and all(wired.heads == 1 for wired in wiring(key.cell))


@lru_cache(maxsize=256)
def kernels_of(cell: Cell, dtype: np.dtype, given: tuple[bool, ...]) -> Mapping[str, int]:
    """Return the addresses of a cell's elementwise kernels, by name."""
    known = dependencies(cell, given)
    depends = () if known is None else ("codegen.pointwise", "emit_kernels", dtype.str, known)
    return object_cache.functions(lambda module: emit_kernels(module, cell, dtype, given), *depends)


def _gate(t: Template, gate: Gate, parameters: Mapping[str, int], row_h: int) -> Fields:
    fields = {"bias": parameters.get(gate.bias, 0), "bias_h": parameters.get(gate.recurrent_bias or "", 0)}
    if gate.is_joint:
        w, row = parameters[gate.weights[0]], row_h + t.n_x * t.item
        return {"w_h": w, "w_h_row": row, "w_x": w + row_h, "w_x_row": row, **fields}
    rows = {"x": t.n_x * t.item, "h": row_h}
    for side, key in zip(gate.sides, gate.weights, strict=True):
        fields |= {f"w_{side}": parameters[key], f"w_{side}_row": rows[side]}
    return fields


def names(of: str, values: Sequence[object]) -> tuple[str, ...]:
    """Return the array names of numbered values."""
    return tuple(f"{of} {k}" for k in range(len(values)))
