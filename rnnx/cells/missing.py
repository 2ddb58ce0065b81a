"""Values of a step that are computed from others of the same step, without products."""

from functools import lru_cache
from typing import NamedTuple

from rnnx.cells.cell import Cell
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, reachable, symbolic_ops, symbols
from rnnx.cells.programs import Program
from rnnx.cells.wiring import Slot, name_of, wiring


class Part(NamedTuple):
    """A program that computes some saved values of a step, and the values that it takes."""

    program: Program
    operands: tuple[Slot, ...]
    results: tuple[Slot, ...]


@lru_cache(maxsize=64)
def missing_values(cell: Cell, known: frozenset[str]) -> tuple[Part, ...] | None:
    """Return how to compute all saved values of a step from the states before it and those saved values that are known.

    None if some of them depend on the sides of a gate, a vector or an extra input in another way.
    """
    parts: list[Part] = []
    for stage in wiring(cell):
        graph, n_given = Graph(), len(stage.vectors) + len(stage.inputs)
        zx, zh, s, given = symbols(graph, zx=stage.n_zx, zh=stage.n_zh, s=len(stage.reads), given=n_given)
        new, saved = stage.forward(symbolic_ops(graph), zx, zh, s, given)
        values = zip((*stage.writes, *stage.saves), map(graph.output, (*new, *saved)), strict=True)
        of_saved = {slot: value for slot, value in values if slot.kind == "saved"}
        there, lacking = dict(zip(stage.reads, s, strict=True)), dict[Slot, Expression]()
        for slot, value in of_saved.items():
            (there if name_of(cell, slot) in known else lacking)[slot] = value
        if any(value.operation == "leaf" for value in reachable(lacking.values(), there.values())):
            return None
        parts.append(Part(Program([*there.values()], [*lacking.values()]), tuple(there), tuple(lacking)))
    return tuple(parts)
