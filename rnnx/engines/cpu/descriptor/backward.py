"""The descriptor of a backward pass. Dimensions as in `fields`."""

from functools import lru_cache

from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import KC, MC
from rnnx.engines.cpu.codegen.pointwise import backward_arguments
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey, Template
from rnnx.engines.cpu.descriptor.fields import ZERO
from rnnx.engines.cpu.descriptor.layout import Block, Layout
from rnnx.engines.cpu.descriptor.stages import Pass, Places, names, places_of


@lru_cache(maxsize=256)
class BackwardPass(Pass):
    """A backward pass. `layouts`: per state, the layout of the caller's cotangents of all steps; None if not given.

    The job's arrays: "state 0", ...; "saved 0", ...; "x"; "dx", except for index inputs; "d_state 0", ..., the
    cotangents of the final states, overwritten by those of the initial ones; "d_given 0", ..., the caller's cotangents;
    "kept parameters", the first array of `kept`; "block", the first array of `block`; "lengths", if given.
    """

    job = "backward"

    def __init__(self, key: PassKey, layouts: tuple[Layout | None, ...]) -> None:
        super().__init__(key)
        cell = key.cell
        self.layouts, self.given = layouts, tuple(layout is not None for layout in layouts)
        shapes: list[tuple[int, ...]] = []
        for stage in cell.stages:  # dw, and the sums for both biases, which are written in whole vectors
            n_c = len(stage.gates) * key.n
            shapes += [(n_c, key.n + key.n_x), (n_c,), (n_c,)]
        self.block = Block(key.dtype, shapes)
        self.values = (*names("state", cell.states), *names("saved", cell.saved), "x")
        self.d_states, self.d_given = names("d_state", cell.states), names("d_given", cell.states)

    def fill(self, t: Template) -> dict[str, int]:
        """See `Pass`."""
        cell = self.key.cell
        *values, x = map(t.base, self.values)
        places = places_of(values[: len(cell.states)], values[len(cell.states) :], t.step, t.step)
        t.fields |= {"x": x, "dx": 0 if t.indices else t.base("dx"), "flat_dx": t.rows == t.m}
        d_states = enumerate(map(t.base, self.d_states))
        cotangents = {Slot("state", k, after): (ds, 0) for k, ds in d_states for after in (False, True)}
        for wired in wiring(cell)[:-1]:
            cotangents |= {slot: (t.take(t.m, t.n), 0) for slot in wired.writes}
        given = self._given(t)
        kept, block = t.base("kept parameters"), t.base("block")
        parameters = dict(zip(self.key.keys, (kept + at for at in self.kept.offsets), strict=True))
        t.fields["stages"] = [
            self.stage(t, wired, parameters, places) | self._stage(t, wired, places, cotangents, given)
            for wired in wiring(cell)
        ]
        for i, at in enumerate(self.block.offsets):
            t.fields["stages"][i // 3][("dw", "db_x", "db_h")[i % 3]] = block + at
        columns = (t.vectors(t.n) + (0 if t.indices else t.vectors(t.n_x))) * t.lanes
        return {"block_a": KC * (MC + t.lanes) * t.item, "block_b": min(KC, t.n_steps * t.m) * columns * t.item}

    def _given(self, t: Template) -> Places:
        """Return the places of the given cotangents; those that are not time-major are converted."""
        given: Places = {}
        t.fields["conversions"] = []
        for k, (name, layout) in enumerate(zip(self.d_given, self.layouts, strict=True)):
            if layout is not None:
                at = source = t.base(name)
                if not layout.time_major:
                    at = t.take(t.n_steps, t.m, t.n)
                    t.fields["conversions"].append(t.conversion(source, layout, t.n, at))
                given[Slot("state", k, after=True)] = (at, t.step)
        return given

    def _stage(self, t: Template, wired: StageWiring, places: Places, cotangents: Places, given: Places) -> Fields:
        n_c = wired.n_gates * t.n
        sides = {a.role: t.take(t.n_steps, t.m, n_c) for a in wired.backward_arguments() if a.per_gate}
        by_role = {"d_writes": cotangents, "d_reads": cotangents, "d_given": given}

        def record(a: Argument) -> Fields:
            if a.slot is not None:
                return t.value(by_role.get(a.role, places)[a.slot])
            return t.value((sides[a.role], t.step * wired.n_gates), ZERO) | {"row": t.row * wired.n_gates}

        return {
            "arguments": [record(a) for a in backward_arguments(wired, self.given)],
            "dz_x": sides["dzx"],
            "dz_h": sides.get("dzh", sides["dzx"]),
            "d_operand": cotangents[wired.operand][0],
            "w_h": t.take(n_c, t.vectors(t.n) * t.lanes),
            "w_x": 0 if t.indices else t.take(n_c, t.vectors(t.n_x) * t.lanes),
            "table": t.take(t.n_x, t.vectors(n_c) * t.lanes) if t.indices else 0,
        }
