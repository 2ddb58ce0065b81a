"""What each stage of a cell reads, writes and saves, computed once per cell for all engines.

An engine stores the states, starting with the initial ones, and the saved values over time. A `Slot` names one of them
relative to step t; engines map slots to addresses. The code generators and the callers of the elementwise kernels use
the same argument lists from here, so they always agree on the order.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

from rnnx.cells.cell import Cell, Stage


class Slot(NamedTuple):
    """A state or a saved value of a step, or its cotangent."""

    kind: Literal["state", "saved"]
    number: int  # index in ``cell.states`` or ``cell.saved``
    after: bool = False  # for a state: its value after the step rather than before


class Argument(NamedTuple):
    """One array argument of an elementwise kernel.

    Roles: "zx" and "zh", the input and recurrent sides of all gates; "reads", "writes" and "saves", values of the step;
    "d_writes", "dzx", "dzh" and "d_reads", their cotangents (d_writes is carried from the later step or stage);
    "d_given", the caller's cotangents of the states at this step.
    """

    role: str
    number: int  # index within the role
    slot: Slot | None  # None for the sides, which hold all gates of the stage

    @property
    def per_gate(self) -> bool:
        """Whether a row has one entry per gate and unit rather than one per unit."""
        return self.slot is None


class StageWiring(NamedTuple):
    """The slots of one stage, in the order of its functions' arguments and results."""

    stage: Stage
    number: int
    is_last: bool
    first_gate: int  # number of gates in the earlier stages
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    saves: tuple[Slot, ...]

    @property
    def n_gates(self) -> int:
        """Number of gates of the stage."""
        return len(self.stage.gates)

    @property
    def operand(self) -> Slot:
        """The value that the recurrent weights multiply."""
        return self.reads[0]

    def forward_arguments(self) -> tuple[Argument, ...]:
        """Arguments of the forward kernel. No "zh" if the stage is additive: the engine adds it to "zx"."""
        sides = ("zx",) if self.stage.additive else ("zx", "zh")
        return self._arguments(*sides, "reads", "writes", "saves")

    def backward_arguments(self) -> tuple[Argument, ...]:
        """Arguments of the backward kernel. "d_given" in the last stage only; no "dzh" if the stage is additive."""
        given = ("d_given",) if self.is_last else ()
        sides = ("dzx",) if self.stage.additive else ("dzx", "dzh")
        return self._arguments("d_writes", *given, "reads", "writes", "saves", *sides, "d_reads")

    def _arguments(self, *roles: str) -> tuple[Argument, ...]:
        slots = {"reads": self.reads, "writes": self.writes, "saves": self.saves}
        slots |= {"d_reads": self.reads, "d_writes": self.writes, "d_given": self.writes}
        return tuple(Argument(role, i, slot) for role in roles for i, slot in enumerate(slots.get(role, (None,))))


@lru_cache(maxsize=256)
def wiring(cell: Cell) -> tuple[StageWiring, ...]:
    """Return the wiring of each stage. Saved values are in the order of ``cell.saved``."""
    stages: list[StageWiring] = []
    reads = tuple(Slot("state", k) for k in range(len(cell.states)))
    n_saved = n_gates = 0
    for i, stage in enumerate(cell.stages):
        is_last = i == len(cell.stages) - 1
        saves = tuple(Slot("saved", n_saved + k) for k in range(len(stage.saved)))
        n_saved += len(saves)
        if is_last:
            writes = tuple(Slot("state", k, after=True) for k in range(len(cell.states)))
        else:
            writes = tuple(Slot("saved", n_saved + k) for k in range(len(stage.out)))
            n_saved += len(writes)
        stages.append(StageWiring(stage, i, is_last, n_gates, reads, writes, saves))
        n_gates += len(stage.gates)
        reads = writes
    return tuple(stages)
