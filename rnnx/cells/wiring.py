"""What each stage of a cell reads, writes and saves, computed once per cell for all engines.

An engine stores the states, starting with the initial ones, the saved values and the extra inputs over time. A `Slot`
names one of them relative to step t, or a vector of parameters; engines map slots to addresses. The code generators and
the callers of the elementwise kernels use the same argument lists from here, so they always agree on the order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

from rnnx.cells.cell import Cell
from rnnx.cells.stage import Stage


class Slot(NamedTuple):
    """A value of a step, or its cotangent."""

    kind: Literal["state", "saved", "vector", "input"]
    number: int  # index in ``cell.states``, ``cell.saved``, ``cell.vectors`` or ``cell.inputs``
    after: bool = False  # for a state: its value after the step rather than before


class Argument(NamedTuple):
    """One array argument of an elementwise kernel.

    Roles: "zx" and "zh", the input and recurrent sides of the gates; "reads", "writes" and "saves", values of the step;
    "given", the vectors and extra inputs; "d_writes", "dzx", "dzh", "d_reads" and "d_inputs", cotangents (d_writes is
    carried from the later step or stage); "d_given", the caller's cotangents of the states at this step.
    """

    role: str
    number: int  # index within the role
    slot: Slot | None  # None for the sides, which hold several gates

    @property
    def per_gate(self) -> bool:
        """Whether a row has one entry per gate and unit rather than one per unit."""
        return self.slot is None


@dataclass(frozen=True)
class StageWiring:
    """The slots of one stage, in the order of its functions' arguments and results."""

    stage: Stage
    number: int
    is_last: bool  # whether it writes states
    operand: Slot  # the value that the recurrent weights multiply
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    saves: tuple[Slot, ...]
    vectors: tuple[Slot, ...]
    inputs: tuple[Slot, ...]
    width: int = 0  # number of units of all values but the operand; 0 means n_a
    operand_width: int = 0

    def units(self, n_a: int) -> int:
        """Return the number of units of all values but the operand."""
        return self.width or n_a

    def operand_units(self, n_a: int) -> int:
        """Return the number of units of the operand."""
        return self.operand_width or n_a

    def columns(self, n_a: int) -> int:
        """Return the number of columns of the recurrent weights: the operand's units, or those of a head."""
        return self.operand_units(n_a) // self.heads

    @cached_property
    def n_gates(self) -> int:
        """Number of gates of the stage."""
        return len(self.stage.gates)

    @cached_property
    def n_zx(self) -> int:
        """Number of gates with an input side, the last ones."""
        return len(self.stage.of_inputs)

    @cached_property
    def n_zh(self) -> int:
        """Number of gates with a recurrent side, the first ones."""
        return len(self.stage.recurrent)

    @cached_property
    def only_h(self) -> int:
        """Number of gates without an input side, the first ones."""
        return self.n_gates - self.n_zx

    @cached_property
    def adds_sides(self) -> bool:
        """Whether the recurrent side can be added to the input side before the kernel. With heads, it has a layout of
        its own.
        """
        return self.stage.additive and self.n_zx == self.n_zh == self.n_gates and self.heads == 1

    @cached_property
    def heads(self) -> int:
        """Number of heads of the recurrent sides."""
        return self.stage.heads

    @cached_property
    def values(self) -> tuple[tuple[Slot, ...], ...]:
        """The values of a step that the backward function takes: read, written and saved."""
        return self.reads, self.writes, self.saves

    @cached_property
    def blocks(self) -> dict[str, range]:
        """The blocks of n numbers in a row of "dzx" and of "dzh": one per gate, then, in dzx, one per vector.

        In an additive stage, which stores one cotangent for both sides, both are parts of the same row.
        """
        end = self.n_gates + len(self.vectors)
        if self.stage.additive:
            return {"dzx": range(self.only_h, end), "dzh": range(self.n_zh)}
        return {"dzx": range(self.n_zx + len(self.vectors)), "dzh": range(self.n_zh)}

    @cached_property
    def takes_given(self) -> bool:
        """Whether the functions take vectors or extra inputs."""
        return bool(self.vectors or self.inputs)

    def forward(self, ops: Any, zx: Any, zh: Any, s: Any, given: Any) -> tuple[Any, Any]:
        """Call the stage's forward function."""
        if self.takes_given:
            s_next, saved = self.stage.forward(ops, zx, zh, s, given)
        else:
            s_next, saved = self.stage.forward(ops, zx, zh, s)
        return s_next, saved

    def backward(
        self, ops: Any, ds: Any, s_prev: Any, s_next: Any, saved: Any, given: Any
    ) -> tuple[dict[str, Sequence[Any]], Any, Any]:
        """Call the stage's backward function; return the rows of dzx and dzh, see `blocks`, ds_prev and d_inputs.

        An additive stage has no row of dzh: all is in that of dzx.
        """
        if not self.takes_given:
            dzx, dzh, ds_prev = self.stage.backward(ops, ds, s_prev, s_next, saved)
            if self.adds_sides:  # the same as below, without the slices
                return {"dzx": dzx}, ds_prev, ()
            d_given: Any = ()
        else:
            dzx, dzh, ds_prev, d_given = self.stage.backward(ops, ds, s_prev, s_next, saved, given)
        d_vectors, d_inputs = d_given[: len(self.vectors)], d_given[len(self.vectors) :]
        if self.stage.additive:
            return {"dzx": (*dzh[: self.only_h], *dzx, *d_vectors)}, ds_prev, d_inputs
        return {"dzx": (*dzx, *d_vectors), "dzh": dzh}, ds_prev, d_inputs

    def forward_arguments(self) -> tuple[Argument, ...]:
        """Arguments of the forward kernel. No "zh" if the engine adds it to "zx"."""
        roles = ["zx"] * bool(self.n_zx) + ["zh"] * bool(self.n_zh and not self.adds_sides)
        return self._arguments(*roles, "reads", "writes", "saves", "given")

    def backward_arguments(self) -> tuple[Argument, ...]:
        """Arguments of the backward kernel. "d_given" in the last stage only; no "dzh" if the stage is additive."""
        given = ["d_given"] * self.is_last
        sides = ["dzx"] * bool(self.blocks["dzx"] or self.stage.additive)
        sides += ["dzh"] * bool(self.n_zh and not self.stage.additive)
        return self._arguments("d_writes", *given, "reads", "writes", "saves", "given", *sides, "d_reads", "d_inputs")

    def _arguments(self, *roles: str) -> tuple[Argument, ...]:
        slots = {"reads": self.reads, "writes": self.writes, "saves": self.saves, "given": self.vectors + self.inputs}
        slots |= {"d_reads": self.reads, "d_writes": self.writes, "d_given": self.writes, "d_inputs": self.inputs}
        return tuple(Argument(role, i, slot) for role in roles for i, slot in enumerate(slots.get(role, (None,))))


def _given(cell: Cell, stage: Stage) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """Return the slots of a stage's vectors and inputs."""
    vectors = tuple(Slot("vector", cell.vectors.index(key)) for key in stage.vectors)
    return vectors, tuple(Slot("input", cell.inputs.index(name)) for name in stage.inputs)


def name_of(cell: Cell, slot: Slot) -> str:
    """Return the name of a value."""
    names = {"state": cell.states, "saved": cell.saved, "vector": cell.vectors, "input": cell.inputs}
    return names[slot.kind][slot.number]


def _parts(cell: Cell, whole: StageWiring) -> list[StageWiring]:
    """Return the parts of a stage, each with values of one width."""
    from rnnx.cells.widths import parts_of, widths_of

    def chosen(slots: tuple[Slot, ...], places: tuple[int, ...]) -> tuple[Slot, ...]:
        return tuple(slots[k] for k in places)

    widths = widths_of(cell)
    parts = parts_of(whole.stage, [name_of(cell, slot) for slot in whole.reads], widths)
    found = []
    for width, stage, reads, writes, saves in parts:
        vectors, inputs = _given(cell, stage)
        slots = chosen(whole.reads, reads), chosen(whole.writes, writes), chosen(whole.saves, saves)
        own = replace(whole, stage=stage, width=width, operand_width=widths.get(name_of(cell, whole.operand), 0))
        found.append(replace(own, reads=slots[0], writes=slots[1], saves=slots[2], vectors=vectors, inputs=inputs))
    return found


@lru_cache(maxsize=256)
def wiring(cell: Cell, *, whole: bool = False) -> tuple[StageWiring, ...]:
    """Return the wiring of each stage. Saved values are in the order of ``cell.saved``.

    A stage with values of different widths is several stages here, see `rnnx.cells.widths`, unless `whole`.
    """
    stages: list[StageWiring] = []
    reads = tuple(Slot("state", k) for k in range(len(cell.states)))
    n_saved = 0
    for i, stage in enumerate(cell.stages):
        is_last = i == len(cell.stages) - 1
        saves = tuple(Slot("saved", n_saved + k) for k in range(len(stage.saved)))
        n_saved += len(saves)
        if is_last:
            writes = tuple(Slot("state", k, after=True) for k in range(len(cell.states)))
        else:
            writes = tuple(Slot("saved", n_saved + k) for k in range(len(stage.out)))
            n_saved += len(writes)
        vectors, inputs = _given(cell, stage)
        wired = StageWiring(stage, i, is_last, reads[0], reads, writes, saves, vectors, inputs)
        parts = [wired] if whole or not cell.has_widths else _parts(cell, wired)
        for part in parts:
            stages.append(replace(part, number=len(stages)))
        reads = writes
    return tuple(stages)
