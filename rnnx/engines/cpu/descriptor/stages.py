"""What forward and backward passes share: the choice of threads, parameters, stages and their kernels."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.gate import Gate
from rnnx.cells.parameters import expected_shapes
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import n_vectors
from rnnx.engines.cpu.codegen.phases import Job, Phase, n_kept, phases_of
from rnnx.engines.cpu.codegen.pointwise import emit_kernels
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey, Places, Template
from rnnx.engines.cpu.descriptor.fields import UNIT_VECTORS
from rnnx.engines.cpu.descriptor.layout import Block
from rnnx.engines.cpu.runtime import object_cache, thread_pool
from rnnx.engines.cpu.runtime.buffer_pool import LINE, address, workspace
from rnnx.engines.cpu.runtime.thread_policy import Work, choice


class Pass:
    """A pass, with a descriptor template for each way to share it among threads."""

    job: Job
    arrays: tuple[str, ...]  # of a call, in the order of their addresses

    def __init__(self, key: PassKey, given: tuple[bool, ...]) -> None:
        cell, dtype, n_steps, m, n, n_x, indices, keys, _ = key
        self.key, self.given = key, given  # for which states the caller gives cotangents
        shapes = expected_shapes(cell, n_x, n)
        self.kept = Block(dtype, [shapes[name][1] for name in keys])  # copies of the parameters
        sides = "".join(gate.sides for gate in cell.gates)
        # Multiplications; backward has twice as many.
        products = n_steps * m * n * (n * sides.count("h") + (0 if indices else n_x * sides.count("x")))
        shares = -(-n_vectors(dtype, n) // UNIT_VECTORS)
        arrays = 2 * len(cell.states) + len(cell.saved) + len(cell.gates) + len(cell.inputs)
        if any(map(self.phases, wiring(cell))):
            shares = 0
        lines = arrays if n * dtype.itemsize % LINE else 0
        self.work = Work(n_steps, m, products, n_steps * m * n * arrays, shares, lines, "h" in sides)
        self._templates: dict[tuple[int, bool], Template] = {}

    def fill(self, t: Template) -> dict[str, int]:
        """Set a template's fields; return the parts of a thread's scratch memory, with sizes in bytes."""
        raise NotImplementedError

    def phases(self, wired: StageWiring) -> tuple[Phase, ...]:
        """Return the phases of a stage whose kernel takes whole rows."""
        return phases_of(wired, self.job, self.given)

    def stage(self, t: Template, wired: StageWiring, parameters: Mapping[str, int], places: Places) -> Fields:
        """Return the fields of a stage that both directions use."""
        kernels, name = kernels_of(self.key.cell, t.dtype, self.given), f"{self.job}_{wired.number}"
        operand, step = places[wired.operand]
        gates = [_gate(t, gate, parameters) for gate in wired.stage.gates]
        phases = self.phases(wired)
        kernel = {"kernel": kernels[name], "kernel_tail": kernels.get(f"{name}_tail", 0)}
        kernel |= {"whole_rows": bool(phases), "kept_rows": n_kept(phases)}
        flags = {"adds_sides": wired.adds_sides, "is_last": wired.is_last}
        counts = {"n_zh": wired.n_zh, "n_zx": wired.n_zx}
        return {**flags, **counts, **kernel, "gates": gates, "operand": operand, "operand_step": step}

    def places(
        self, t: Template, values: Sequence[int], parameters: Mapping[str, int], step: int, saved_step: int
    ) -> Places:
        """Return the places of all values.

        `values` are the addresses of the initial states, the saved values and the extra inputs, `parameters` those of
        the parameters by key.
        """
        cell = self.key.cell
        n_states, n_saved = len(cell.states), len(cell.saved)
        places: Places = {Slot("vector", k): (parameters[key], 0) for k, key in enumerate(cell.vectors)}
        for k, at in enumerate(values[:n_states]):
            places |= {Slot("state", k): (at, step), Slot("state", k, after=True): (at + step, step)}
        places |= {Slot("saved", k): (at, saved_step) for k, at in enumerate(values[n_states : n_states + n_saved])}
        return places | {Slot("input", k): (at, t.step) for k, at in enumerate(values[n_states + n_saved :])}

    def template(self, threads: int, unit_parallel: bool) -> Template:
        """Return the descriptor template, built on first use."""
        choice = (threads, unit_parallel)
        if choice not in self._templates:
            t = Template(self.job, self.key, self.arrays, threads, unit_parallel)
            if self.key.has_lengths:
                t.fields["lengths"] = t.base("lengths")
            self._templates[choice] = t.finish(**self.fill(t))
        return self._templates[choice]

    def run(self, addresses: list[int], lengths: np.ndarray | None) -> None:
        """Run the job on arrays at `addresses`, in the order of `arrays` up to the lengths."""
        if lengths is not None:
            lengths = np.ascontiguousarray(lengths, np.int64)
            addresses.append(address(lengths))
        threads, unit_parallel = choice(self.work)
        if threads > 1 and not thread_pool.pool().acquire(threads, self.work.alone_ns):
            threads, unit_parallel = 1, False
        try:
            template = self.template(threads, unit_parallel)
            with workspace(template.workspace) as place:
                descriptor = template.bind(place, addresses)
                if threads == 1:
                    template.native(0, 1, address(descriptor))
                else:
                    thread_pool.pool().run(template.native, threads, address(descriptor))
        finally:
            if threads > 1:
                thread_pool.pool().release()


@lru_cache(maxsize=256)
def kernels_of(cell: Cell, dtype: np.dtype, given: tuple[bool, ...]) -> Mapping[str, int]:
    """Return the addresses of a cell's elementwise kernels, by name."""
    return object_cache.functions(lambda module: emit_kernels(module, cell, dtype, given))


def _gate(t: Template, gate: Gate, parameters: Mapping[str, int]) -> Fields:
    fields = {"bias": parameters.get(gate.bias, 0), "bias_h": parameters.get(gate.recurrent_bias or "", 0)}
    if gate.is_joint:
        w, row = parameters[gate.weights[0]], t.row + t.n_x * t.item
        return {"w_h": w, "w_h_row": row, "w_x": w + t.row, "w_x_row": row, **fields}
    rows = {"x": t.n_x * t.item, "h": t.row}
    for side, key in zip(gate.sides, gate.weights, strict=True):
        fields |= {f"w_{side}": parameters[key], f"w_{side}_row": rows[side]}
    return fields


def names(of: str, values: Sequence[object]) -> tuple[str, ...]:
    """Return the array names of numbered values."""
    return tuple(f"{of} {k}" for k in range(len(values)))
