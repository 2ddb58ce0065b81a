"""The descriptor of a forward pass. Dimensions as in `fields`."""

from dataclasses import replace
from functools import lru_cache
from math import lcm, prod

from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.cpu import kernels
from rnnx.engines.cpu.codegen.direct import most_rows
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey, Places, Template, direct, narrow, product
from rnnx.engines.cpu.descriptor.fields import ZH, ZX
from rnnx.engines.cpu.descriptor.kept_weights import MANY_EXAMPLES, formats_of, kept_sizes
from rnnx.engines.cpu.descriptor.layout import Block, Layout, lines
from rnnx.engines.cpu.descriptor.stages import Pass, multiplies_once, names
from rnnx.engines.cpu.runtime.buffer_pool import address
from rnnx.engines.cpu.runtime.tuning import panel_vectors
from rnnx.engines.cpu.runtime.work import cache_bytes

_ROWS_OF_A_CHUNK = 64  # of input sides, computed in one product


def _chunk(n_steps: int, rows: int) -> int:
    """Return how many steps of so many rows make a chunk: a power of two, as blocks of x have whole chunks."""
    most = max(1, min(n_steps, _ROWS_OF_A_CHUNK // rows))
    return 1 << most.bit_length() - 1


@lru_cache(maxsize=256)
class ForwardPass(Pass):
    """A forward pass; with `keep`, a backward pass may follow. In a stepper, the states are in `slot` 0 or 1 already.

    `layouts`: those of x and the extra inputs to convert, or None to read one in place. The job's arrays: "block", the
    memory of `block`, which with `keep` ends with converted sequences and the copies of the parameters; the
    `sequences`, x and the extra inputs; "initial 0", ..., the initial states, (m, n), but in a stepper; the
    `parameters`; "output 0", ..., the caller's copies of the states, or, if there are none, "final 0", ..., those after
    each example's last step, (m, n); "lengths", if given.

    `only_first`: the caller needs no other state's sequence, so there are no outputs of others, and without `keep` only
    the latest values of those that a step may overwrite. `is_packed`: the matrices that are kept have been
    packed. They are arrays of the job, "packed 0", ...

    If it `borrows`, the sequences and parameters do not change before the backward pass, which reads them, too: the
    block has the states, the saved values and converted sequences only, and the outputs are needed even without
    `keep`. In the order of its arrays, those that the job writes come first, and memory need not begin at a cache line.
    A single step of few examples does not pack the weights.

    `n_y`: the outputs of an output layer, for a single step, whose examples threads share. The arrays "y", (m, n_y),
    its weights and its biases follow the parameters.
    """

    job = "forward"
    times = 1

    def __init__(
        self,
        key: PassKey,
        keep: bool,
        layouts: tuple[Layout | None, ...],
        slot: int | None = None,
        only_first: bool = False,
        is_packed: bool = False,
        borrows: bool = False,
        n_y: int = 0,
    ) -> None:
        cell, _, n_steps, m, _, n_x, *_ = key
        self.keep, self.layouts, self.slot, self._is_packed = keep, layouts, slot or 0, is_packed
        self.n_y = n_y
        self._copies = keep and not borrows
        self._direct = borrows and key.m <= most_rows() and multiplies_once(key)
        super().__init__(key, (True,) + (False,) * (len(cell.states) - 1))
        self.latest = self._overwritten() if only_first and not keep and slot is None else frozenset()
        n_kept = [1 if k in self.latest else n_steps + 1 for k in range(len(cell.states))]
        states = [(n, m, self.units(name)) for n, name in zip(n_kept, cell.states, strict=True)]
        # Without `keep`, every step overwrites the saved values of the previous one.
        saved = [(n_steps if keep else 1, m, self.units(name)) for name in cell.saved]
        features = (n_x, *map(self.units, cell.inputs))
        copied = [f is not None and keep for f in layouts]
        copies = [(n_steps, m, k) if is_copied else (0,) for is_copied, k in zip(copied, features, strict=True)]
        self.block = Block(key.dtype, [*states, *saved, *copies, *(self.kept.shapes if self._copies else ())])
        self.sequences = ("x", *names("input", cell.inputs))
        self.initial = names("initial", cell.states) if slot is None else ()
        self.outputs = names("output", cell.states[: 1 if only_first else None]) if keep or borrows else ()
        self.final = names("final", cell.states) if slot is None and not self.outputs else ()
        self.parameters = tuple(f"parameter {name}" for name in key.keys)  # a key may be "block"
        self._formats = formats_of(key, _chunk(n_steps, m))
        self.kept_sizes = {} if slot is not None else kept_sizes(key, self._formats)  # a stepper packs only once
        self._kept = {matrix.number: matrix for matrix in self.kept_sizes}
        if (m >= MANY_EXAMPLES and self._kept) or n_y:  # their micro-panels begin where shares of units do not
            self.work = replace(self.work, shares=0)
        own = tuple(f"packed {number}" for number in self._kept)
        given = (*self.sequences, *self.initial, *self.parameters, *(("y", "W_y", "b_y") if n_y else ()))
        self.arrays = ("block", *given, *self.outputs, *self.final, *own, "lengths")
        if borrows:
            self.arrays, self.blocks = ("block", *self.outputs, *given, *own, "lengths"), 0
        # With `keep`, of the values of a backward pass and the first parameter, but for what that borrows.
        end = len(states) + len(saved) + (0 if borrows else len(copies) + 1)
        self.kept_at = tuple(self.block.offsets[:end])

    def _overwritten(self) -> frozenset[int]:
        """Return the states, but the first, that only the stage that writes them reads, one number at a time."""
        *stages, last = wiring(self.key.cell)
        read = {slot for stage in stages for slot in (*stage.reads, stage.operand)} | {last.operand}
        if self.phases(last):
            return frozenset()
        written = {slot.number for slot in last.writes if slot.number}
        return frozenset(written - {slot.number for slot in read if slot.kind == "state"})

    def fill(self, t: Template) -> dict[str, int]:
        """See `Pass`."""
        cell = self.key.cell
        n_states = len(cell.states)
        t.fields["direct"] = direct(t.dtype) if self._direct else 0
        first = t.base("block")
        block = [first + at for at in self.block.offsets]
        end = n_states + len(cell.saved)
        steps = [t.m * self.units(name) * t.item for name in cell.states]
        states = [S + self.slot * step for S, step in zip(block, steps, strict=False)]
        outputs = zip(states, steps, self.outputs, strict=False)  # there may be none
        copies = [{"source": S + step, "target": t.base(name)} for S, step, name in outputs]
        sources = [t.base(name) for name in self.parameters]
        starts = zip(map(t.base, self.initial), states, [step // t.item for step in steps], strict=False)
        kept = zip(sources, block[-len(sources) :], map(prod, self.kept.shapes), strict=True) if self._copies else ()
        t.fields["copies"] = [{"source": a, "target": b, "size": size} for a, b, size in (*starts, *kept)]
        if t.rows == t.m or not self.key.has_lengths:
            t.fields["chunk"] = _chunk(t.n_steps, t.rows)
        t.fields["x_block"] = self._x_block(t)
        x, *inputs = self._sequences(t, block[end : end + len(self.sequences)])
        row = 8 if t.indices else t.n_x * t.item
        t.fields |= {"x": x, "x_row": row, "x_step": t.m * row}
        parameters = dict(zip(self.key.keys, sources, strict=True))
        values = [*states, *block[n_states:end], *inputs]
        places = self.places(t, values, parameters, -1 if self.slot else 1, int(self.keep))
        for k in self.latest:
            places |= dict.fromkeys((Slot("state", k), Slot("state", k, after=True)), (states[k], 0))
        stages = [self._stage(t, wired, parameters, places, copies) for wired in wiring(cell)]
        t.fields |= {"stages": stages, "dense": [self._dense(t, states[0])] if self.n_y else []}
        return self._of_slice(t, stages, row)

    def _of_slice(self, t: Template, stages: list[Fields], row: int) -> dict[str, int]:
        """Return the parts of a slice's scratch memory; `row` is the size of a row of x in bytes."""
        widest = max(max(stage["n_vectors_x"] * t.fields["chunk"], stage["n_vectors_h"]) for stage in stages)
        rows = t.m if self.key.has_lengths else t.rows
        t.fields["z_size"] = z_size = lines(widest * t.size * rows)
        scratch = self.scratch(t, t.m * max(stage["n_operand"] for stage in stages))
        if t.fields["x_block"]:
            scratch["x_rows"] = t.rows * t.fields["x_block"] * row
        elif self.key.has_lengths or t.rows < t.m:  # else all rows of a chunk are one after another
            scratch |= {"x_list": 8 * rows * t.fields["chunk"], "x_rows": rows * t.fields["chunk"] * row}
        if self.n_y:
            packed = 0 if self._direct else t.packed(self.units(self.key.cell.states[0]), t.vectors(self.n_y))
            scratch |= {"y_packed": packed, "y_values": 8 * t.rows, "y_count": 8}
        wide = max(t.n_x, *(stage["n_operand"] for stage in stages)) + 1 if any(self._formats.values()) else 0
        return {"z": z_size * (len(stages) + 1), "wide": wide * t.size, **scratch}

    def unit_vectors(self) -> int:
        """See `Pass`."""
        groups = {n for w in wiring(self.key.cell) for n in (w.n_zh, 0 if self.key.indices else w.n_zx) if n}
        return lcm(*(lcm(panel_vectors(n), n) // n for n in groups))

    def read(self, wired: StageWiring) -> int:
        """See `Pass`."""
        return wired.operand_units(self.key.n) if wired.n_zh else 0

    def _dense(self, t: Template, state: int) -> Fields:
        """Return the fields of the output layer, for the address of the first state before the step."""
        n, n_k = self.n_y, self.units(self.key.cell.states[0])
        fields = {"w": t.base("W_y"), "bias": t.base("b_y"), "y": t.base("y"), "n_k": n_k}
        fields["h"] = state + t.m * n_k * t.item
        kernel = kernels.softmax(t.dtype).address
        return {**fields, "columns": n, "kernel": kernel, "count": address(kernels.ONE)}

    def _sequences(self, t: Template, own: list[int]) -> list[int]:
        """Return the addresses of time-major x and extra inputs.

        Those with a layout are copied to `own` if they are kept, else to the workspace; x perhaps in blocks of steps.
        """
        places: list[int] = []
        t.fields["conversions"] = []
        for name, layout, target in zip(self.sequences, self.layouts, own, strict=True):
            source = t.base(name)
            if layout is not None:
                features = self.units(self.key.cell.inputs[len(places) - 1]) if places else t.n_x
                if not self.keep:
                    in_blocks = name == "x" and t.fields["x_block"] > 0
                    target = 0 if in_blocks else t.take(t.n_steps, t.m, features)
                t.fields["conversions"].append(t.conversion(source, layout, features, target))
            places.append(source if layout is None else target)
        return places

    def _x_block(self, t: Template) -> int:
        """Return how many steps of x a slice of examples converts at once, inside the loop; 0 if x is converted before.

        In blocks, x stays in the cache until it is read, and threads do not write to the same cache lines. It is not
        kept, so this is for passes without `keep`.
        """
        by_slice = not (self.keep or self.layouts[0] is None or self.key.has_lengths or t.fields["unit_parallel"])
        block = min(max(t.fields["chunk"], t.lanes), t.n_steps)  # transposes take as many steps as a vector has lanes
        fits = block * t.rows * t.n_x * t.item <= cache_bytes() // 2
        return block if by_slice and fits else 0

    def _side(self, t: Template, number: int, group: int, size: int) -> dict[str, int]:
        """Return the fields of a stage's packed weights of one side; `size` is that of a matrix in the workspace."""
        if self._direct:
            return {"w": 0, "nv": 0, "product": 0, "narrow": 0, "is_packed": True}
        weights, kept = self._formats.get(number, ""), self._kept.get(number)
        nv = kept.nv if kept else panel_vectors(group, 0 if weights else t.panel_rows)
        return {
            "w": t.base(f"packed {number}") if kept else t.take_bytes(size),
            "nv": nv,
            "product": product(t.dtype, nv, weights),
            "narrow": narrow(t.dtype, weights),
            "is_packed": bool(kept) and self._is_packed,
        }

    def _stage(
        self, t: Template, wired: StageWiring, parameters: dict[str, int], places: Places, copies: list[Fields]
    ) -> Fields:
        n, n_head = wired.units(t.n), wired.columns(t.n)
        vectors_h, vectors_x = t.vectors(n * wired.n_zh), t.vectors(n * wired.n_zx)
        of_h = 2 * wired.number
        weights, weights_x = (self._formats.get(k, "") for k in (of_h, of_h + 1))
        head_size = t.packed(n_head, t.vectors(n_head), weights)
        w_h = head_size * wired.heads * wired.n_zh if wired.heads > 1 else t.packed(n_head, vectors_h, weights)
        sides = {
            "h": self._side(t, of_h, wired.n_zh if wired.heads == 1 else 1, w_h),
            "x": self._side(t, of_h + 1, wired.n_zx, t.packed(t.n_x, vectors_x, weights_x)),
        }
        needs_bias_h = not wired.adds_sides or any(g.recurrent_bias in parameters for g in wired.stage.gates)
        fields = {
            **self.stage(t, wired, parameters, places),
            **{f"{name}_{side}": value for side, of in sides.items() for name, value in of.items()},
            "arguments": [self._argument(t, wired, a, places) for a in wired.forward_arguments()],
            "outputs": [copies[s.number] for s in wired.writes if wired.is_last and s.number < len(copies)],
            "head_size": head_size,
            "bias": t.take(vectors_x * t.lanes),
            "bias_h": t.take(vectors_h * t.lanes) if needs_bias_h else 0,
            "n_vectors_h": vectors_h,
            "n_vectors_x": vectors_x,
        }
        return fields | ({"nv_x": vectors_x} if t.indices else {})

    def _argument(self, t: Template, wired: StageWiring, argument: Argument, places: Places) -> Fields:
        if argument.slot is None:
            side, n_gates = {"zx": (ZX, wired.n_zx), "zh": (ZH, wired.n_zh if wired.heads == 1 else 1)}[argument.role]
            return {"side": side, "vector": t.size * n_gates}
        slot, zero_past_end, final = argument.slot, False, 0
        if argument.role == "writes" and wired.is_last:
            is_latest, (at, step) = slot.number in self.latest, places[slot]
            zero_past_end = not self.outputs and not is_latest  # the states are then the caller's
            if self.final:
                final = t.base(self.final[slot.number])
            elif self.key.has_lengths and not is_latest:
                final = at + (t.n_steps - 1) * step
        return {**t.value(slot, places, wired.units(t.n), zero_past_end), "final": final}
