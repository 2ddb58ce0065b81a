"""The activations of a cell's gates, for inspection.

In a cell whose functions are derived, saved values have no meaningful names. Here its gates are found in the
expressions of its forward functions. The activation of a gate is the first function, such as `sigmoid`, applied to its
pre-activation, to which other values than states may have been added. Without one, it is the pre-activation itself.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from rnnx.cells.cell import Cell
from rnnx.cells.derive import DerivedBackward
from rnnx.cells.expressions import WORDS, Expression
from rnnx.cells.gate import Gate
from rnnx.cells.graph import Graph, depending_on, reachable, symbolic_ops, symbols
from rnnx.cells.programs import Program, StageForward
from rnnx.cells.wiring import StageWiring, wiring


def is_derived(cell: Cell) -> bool:
    """Return whether a stage has a derived backward function, whose saved values have no names of their own."""
    return any(isinstance(stage.backward, DerivedBackward) for stage in cell.stages)


@lru_cache(maxsize=64)
def observed(cell: Cell) -> tuple[Cell, tuple[str, ...]]:
    """Return a cell for forward passes whose saved values include the gates' activations, and their names.

    A gate with the weights ``Wf`` has the name ``ft``, as in the course. Activations that are states are left out.
    """
    stages, names = [], []
    for wired in wiring(cell):
        found, program = _Stage(wired).observed()
        names += found
        stages.append(
            replace(
                wired.stage, saved=tuple(found), forward=StageForward(program, len(wired.stage.out)), backward=_never
            )
        )
    return replace(cell, stages=tuple(stages), cache=(), definition=None), tuple(names)


def _never(*_: Any) -> Any:
    raise AssertionError("an observed cell has no backward pass")


class _Stage:
    """What a stage computes, in symbols."""

    def __init__(self, wired: StageWiring) -> None:
        graph = Graph()
        n_given = len(wired.vectors) + len(wired.inputs)
        self.leaves = symbols(graph, zx=wired.n_zx, zh=wired.n_zh, s=len(wired.reads), given=n_given)
        self.wired = wired
        new, _ = wired.forward(symbolic_ops(graph), *self.leaves)
        self.new = [graph.output(value) for value in new]
        self.values = reachable(self.new)
        self.users: dict[int, list[Expression]] = {}
        for value in self.values:
            for argument in value.arguments:
                self.users.setdefault(argument.number, []).append(value)

    def observed(self) -> tuple[list[str], Program]:
        """Return the names of the gates' activations, and the program for the new values and the activations."""
        states = {value.number for value in self.new} if self.wired.is_last else set()
        found = {f"{gate.short_name}t": self._activation(gate) for gate in self.wired.stage.gates}
        found = {name: value for name, value in found.items() if value.number not in states}
        inputs = [value for leaves in self.leaves for value in leaves]
        return [*found], Program(inputs, [*self.new, *found.values()])

    def _activation(self, gate: Gate) -> Expression:
        stage = self.wired.stage
        sides = [self.leaves[0][stage.of_inputs.index(gate)]] if "x" in gate.sides else []
        sides += [self.leaves[1][stage.recurrent.index(gate)]] if "h" in gate.sides else []
        common = [value for value in (*sides, *self.values) if all(value.number in self._of(side) for side in sides)]
        allowed = {value.number for value in common}
        words = [value for side in sides for value in self._functions(side) if value.number in allowed]
        result = words[0] if words else common[0]
        while words and len(after := self.users.get(result.number, [])) == 1 and len(after[0].arguments) == 1:
            result = after[0]  # exp(-relu(z))
        return result

    def _of(self, side: Expression) -> set[int]:
        """Return the numbers of the values that depend on a side."""
        return depending_on([side], self.values)

    def _functions(self, side: Expression) -> list[Expression]:
        """Return the functions of a sum with a side, nearest first."""
        variable = depending_on([value for leaves in self.leaves[:3] for value in leaves], self.values)
        written = {value.number for value in self.new}
        found, todo = [], [side]
        for value in todo:  # grows
            for user in self.users.get(value.number, []):
                scaled = [a for a in user.arguments if a is not value and a.number in variable]
                if WORDS.get(user.operation) == 1:
                    found.append(user)
                elif user.number not in written and (user.operation in {"+", "-", "neg"} or not scaled):
                    todo.append(user)
        return found
