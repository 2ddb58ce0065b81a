"""The descriptor of a forward pass. Dimensions as in `fields`."""

from functools import lru_cache
from math import prod

from rnnx.cells.wiring import Argument, StageWiring, wiring
from rnnx.engines.cpu.codegen.gemm import panel_vectors
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey, Template, product
from rnnx.engines.cpu.descriptor.fields import KEEP, ZERO, ZH, ZX
from rnnx.engines.cpu.descriptor.layout import Block, Layout, lines
from rnnx.engines.cpu.descriptor.stages import Pass, Places, names, places_of

_ROWS_OF_A_CHUNK = 48  # for a thread with all examples: rows of input sides computed in one product


@lru_cache(maxsize=256)
class ForwardPass(Pass):
    """A forward pass; with `keep`, a backward pass may follow. In a stepper, the states begin in `slot` 0 or 1.

    `layout`: that of an x to copy to `block`, or None to read x in place. The job's arrays: "block", the first array of
    `block`; "x"; "lengths", if given; "output 0", ..., the caller's copies of the states; the `parameters`;
    "kept parameters", the first array of `kept`.
    """

    job = "forward"

    def __init__(self, key: PassKey, keep: bool, layout: Layout | None, slot: int = 0) -> None:
        super().__init__(key)
        cell, _, n_steps, m, n, n_x, *_ = key
        self.keep, self.layout, self.slot = keep, layout, slot
        self.given = (True,) + (False,) * (len(cell.states) - 1)
        states = [(n_steps + 1, m, n)] * len(cell.states)
        # Without `keep`, every step overwrites the saved values of the previous one.
        saved = [(n_steps if keep else 1, m, n)] * len(cell.saved)
        self.block = Block(key.dtype, [*states, *saved, (0,) if layout is None else (n_steps, m, n_x)])
        self.outputs = names("output", cell.states) if keep or key.has_lengths else ()
        self.parameters = tuple(f"parameter {name}" for name in key.keys)  # a key may be "block"

    def fill(self, t: Template) -> dict[str, int]:
        """See `Pass`."""
        block, x, n_states = t.base("block"), t.base("x"), len(self.key.cell.states)
        *places, own_x = (block + at for at in self.block.offsets)
        states = [S + self.slot * t.step for S in places[:n_states]]
        if self.layout is not None:
            t.fields["conversions"] = [t.conversion(x, self.layout, t.n_x, own_x)]
            x = own_x
        outputs = zip(states, self.outputs, strict=False)  # there may be none
        t.fields["outputs"] = [{"source": S + t.step, "target": t.base(name)} for S, name in outputs]
        sources = [t.base(name) for name in self.parameters]
        if self.keep:
            kept = zip(sources, self.kept.offsets, self.kept.shapes, strict=True)
            target = t.base("kept parameters")
            t.fields["copies"] = [{"source": a, "target": target + at, "size": prod(shape)} for a, at, shape in kept]
        if t.rows == t.m:
            t.fields["chunk"] = max(1, min(t.n_steps, _ROWS_OF_A_CHUNK // t.m))
        row = 8 if t.indices else t.n_x * t.item
        t.fields |= {"x": x, "x_row": row, "x_step": t.m * row}
        step, saved_step = -t.step if self.slot else t.step, t.step if self.keep else 0
        values = places_of(states, places[n_states:], step, saved_step)
        parameters = dict(zip(self.key.keys, sources, strict=True))
        stages = [self._stage(t, wired, parameters, values) for wired in wiring(self.key.cell)]
        z_size = lines(max(stage["n_vectors"] for stage in stages) * t.size * t.rows * t.fields["chunk"])
        t.fields |= {"stages": stages, "z_size": z_size}
        return {"z": z_size * (len(stages) + 1)}

    def _stage(self, t: Template, wired: StageWiring, parameters: dict[str, int], places: Places) -> Fields:
        vectors, nv = t.vectors(t.n) * wired.n_gates, panel_vectors(wired.n_gates)
        columns = vectors * t.lanes
        needs_bias_h = not wired.stage.additive or any(g.recurrent_bias in parameters for g in wired.stage.gates)
        return {
            **self.stage(t, wired, parameters, places),
            "arguments": [_argument(t, wired, a, places) for a in wired.forward_arguments()],
            "w_h": t.take(t.n, columns),
            "w_x": t.take(t.n_x, columns),
            "bias": t.take(columns),
            "bias_h": t.take(columns) if needs_bias_h else 0,
            "n_vectors": vectors,
            "nv": nv,
            "nv_x": vectors if t.indices else nv,
            "product": product(t.dtype, nv),
        }


def _argument(t: Template, wired: StageWiring, argument: Argument, places: Places) -> Fields:
    if argument.slot is None:
        return {"side": {"zx": ZX, "zh": ZH}[argument.role], "vector": t.size * wired.n_gates}
    past_end = {"reads": 0, "writes": KEEP if wired.is_last else ZERO, "saves": ZERO}[argument.role]
    return t.value(places[argument.slot], past_end)
