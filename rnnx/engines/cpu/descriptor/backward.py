"""The descriptor of a backward pass. Dimensions as in `fields`."""

from functools import lru_cache

from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import KC, MC, reads_rows
from rnnx.engines.cpu.codegen.pointwise import backward_arguments
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey, Places, Template
from rnnx.engines.cpu.descriptor.fields import DZ
from rnnx.engines.cpu.descriptor.gradient_block import GradientBlock
from rnnx.engines.cpu.descriptor.layout import Layout
from rnnx.engines.cpu.descriptor.stages import Pass, multiplies_once, names
from rnnx.engines.cpu.runtime.tuning import panel_vectors

# Of a step. With more, reading weights that are packed makes up for packing them.
_FEW_ROWS = 24
# Of a slice. With fewer, a product for every step is slower than one that reads all steps again.
_MANY_ROWS = 48


@lru_cache(maxsize=256)
class BackwardPass(Pass):
    """A backward pass. `layouts`: per state, the layout of the caller's cotangents of all steps; None if not given.

    `kept_at`: see `ForwardPass`; None if the values are not in a forward pass's block. If it `borrows`, it reads the
    arrays that such a forward pass has read.

    The job's arrays: "block", the memory of `block`; "kept", the memory of the forward pass's block or of `kept`, the
    copies of the parameters; the `values` that are not in it, "state 0", ...; "saved 0", ...; "x"; "input 0", ...; the
    `parameters`, if it borrows them; "d_input 0", ...; "dx", if wanted, but not for index inputs; "d_final 0", ..., the
    cotangents of the final states, (m, n); "d_given 0", ..., the caller's cotangents of all steps, if given; "lengths",
    if given. In the block are "d_state 0", ..., copies of those of the final states that become those of the initial
    ones.
    """

    job = "backward"
    times = 2
    between_steps = True
    blocks = 2

    def __init__(
        self,
        key: PassKey,
        layouts: tuple[Layout | None, ...],
        kept_at: tuple[int, ...] | None,
        *,
        borrows: bool = False,
        has_dx: bool = True,
    ) -> None:
        super().__init__(key, tuple(layout is not None for layout in layouts))
        cell = key.cell
        self.after_loop = len(wiring(cell)) * -(-key.n_steps * key.m // KC)
        self.layouts = layouts
        self.block = GradientBlock(key)
        self.values = (*names("state", cell.states), *names("saved", cell.saved), "x", *names("input", cell.inputs))
        self.d_states, self.d_given = names("d_state", cell.states), names("d_given", cell.states)
        self.d_final = names("d_final", cell.states)
        self.d_inputs = names("d_input", cell.inputs)
        given = [name for name, layout in zip(self.d_given, layouts, strict=True) if layout is not None]
        self.has_dx = has_dx and not key.indices
        results = (*self.d_inputs, *(("dx",) if self.has_dx else ()))
        kept, outside = (*self.values, "kept parameters"), self.values
        self.parameters = tuple(f"parameter {name}" for name in key.keys) if borrows else ()
        self._unpacked = borrows and key.m <= _FEW_ROWS and reads_rows() and multiplies_once(key)
        if borrows and kept_at is not None:
            outside = (*self.values[len(kept_at) :], *self.parameters)
        elif kept_at is not None:
            outside = ("x",) if key.indices else ()
        places = zip(kept, kept_at, strict=not borrows) if kept_at is not None else [("kept parameters", 0)]
        self.within = {name: ("kept", at) for name, at in places if name not in outside}
        self.within |= {name: ("block", at) for name, at in zip(self.d_states, self.block.of_states, strict=True)}
        given = [*self.d_final, *given, "lengths"]
        self.arrays = ("block", "kept", *outside, *results, *given)
        if borrows:
            self.arrays, self.blocks = ("block", *results, "kept", *outside, *given), 0

    def fill(self, t: Template) -> dict[str, int]:
        """See `Pass`."""
        cell = self.key.cell
        values = [t.base(name) for name in self.values if name != "x"]
        t.fields |= {"x": t.base("x"), "dx": t.base("dx") if self.has_dx else 0}
        t.fields["unpacked"] = self._unpacked
        t.fields["flat_dx"] = t.rows == t.m or t.rows < _MANY_ROWS
        d_states = enumerate(map(t.base, self.d_states))
        cotangents = {Slot("state", k, after): (ds, 0) for k, ds in d_states for after in (False, True)}
        for k, name in enumerate(self.d_inputs):
            cotangents[Slot("input", k)] = t.base(name), t.m * self.units(cell.inputs[k]) * t.item
        for wired in wiring(cell):
            if not wired.is_last:
                cotangents |= {slot: (t.take(t.m, wired.units(t.n)), 0) for slot in wired.writes}
        given = self._given(t)
        ends = zip(cell.states, map(t.base, self.d_final), map(t.base, self.d_states), strict=True)
        t.fields["copies"] = [{"source": a, "target": b, "size": t.m * self.units(s)} for s, a, b in ends]
        block, of_parameters = t.base("block"), map(t.base, self.parameters)
        if not self.parameters:
            of_parameters = map(t.base("kept parameters").__add__, self.kept.offsets)
        parameters = dict(zip(self.key.keys, of_parameters, strict=True))
        places = self.places(t, values, parameters, 1, 1)
        t.fields["stages"] = [
            self.stage(t, wired, parameters, places) | self._stage(t, wired, places, cotangents, given)
            for wired in wiring(cell)
        ]
        for wired, stage in zip(wiring(cell), t.fields["stages"], strict=True):
            stage |= self.block.fields(wired, block)
            for vector, at in zip(stage["vectors"], self.block.of_vectors(wired), strict=True):
                vector["total"] = block + at
        of_operand = max(t.vectors(wired.columns(t.n)) * wired.heads for wired in wiring(cell))
        columns = (of_operand + (0 if t.indices else t.vectors(t.n_x))) * t.lanes
        t.fields["positions"] = t.take(t.n_steps, t.m, 8 // t.item) if self.key.has_lengths else 0
        operands = max(wired.operand_units(t.n) for wired in wiring(cell))
        scratch = self.scratch(t, max(t.m * operands, 0 if t.indices else MC * t.n_x))
        return scratch | {
            "block_a": KC * (MC + t.lanes) * t.item,
            "block_b": min(KC, t.n_steps * t.m) * columns * t.item,
        }

    def unit_vectors(self) -> int:
        """See `Pass`."""
        return panel_vectors(1)

    def read(self, wired: StageWiring) -> int:
        """See `Pass`."""
        return wired.units(self.key.n) * wired.n_zh

    def _given(self, t: Template) -> Places:
        """Return the places of the given cotangents; those that are not time-major are converted."""
        given: Places = {}
        t.fields["conversions"] = []
        for k, (name, layout) in enumerate(zip(self.d_given, self.layouts, strict=True)):
            if layout is not None:
                at, n = (source := t.base(name)), self.units(self.key.cell.states[k])
                if not layout.time_major:
                    at = t.take(t.n_steps, t.m, n)
                    t.fields["conversions"].append(t.conversion(source, layout, n, at))
                given[Slot("state", k, after=True)] = (at, t.m * n * t.item)
        return given

    def _stage(self, t: Template, wired: StageWiring, places: Places, cotangents: Places, given: Places) -> Fields:
        widths = {"dzx": wired.blocks["dzx"].stop - len(wired.vectors), "dzh": wired.n_zh}
        if wired.stage.additive:
            widths["dzh"] = widths["dzx"]
        n, row = wired.units(t.n), wired.units(t.n) * t.item
        sides = {a.role: t.take(t.n_steps, t.m, widths[a.role] * n) for a in wired.backward_arguments() if a.per_gate}
        sums = [t.take(t.m, n) for _ in wired.vectors]
        by_role = {"d_writes": cotangents, "d_reads": cotangents, "d_given": given, "d_inputs": cotangents}

        def record(a: Argument) -> Fields:
            if a.role == "d_vectors":
                return {"address": sums[a.number], "row": row, "vector": t.size}
            if a.slot is not None:
                return t.value(a.slot, by_role.get(a.role, places), n, a.role == "d_inputs")
            width = widths[a.role] * row
            strides = {"step": t.m * width, "row": width, "vector": t.size}
            return {"address": sides[a.role], **strides, "side": DZ}

        n_h, n_x = wired.n_zh * n, wired.n_zx * n
        dz_x = sides.get("dzx", 0)
        return {
            "arguments": [record(a) for a in backward_arguments(wired, self.given)],
            "dz_x": dz_x + wired.blocks["dzx"].start * row,
            "dz_h": sides.get("dzh", dz_x),
            "dz_x_row": widths["dzx"] * row,
            "dz_h_row": widths["dzh"] * row,
            "vectors": [{"sums": at} for at in sums],
            "d_operand": cotangents[wired.operand][0],
            "w_h": 0 if self._unpacked else t.take(n_h, t.vectors(wired.columns(t.n)) * t.lanes),
            "w_x": 0 if t.indices or self._unpacked else t.take(n_x, t.vectors(t.n_x) * t.lanes),
            "table": t.take(t.n_x, t.vectors(n_x) * t.lanes) if t.indices else 0,
        }
