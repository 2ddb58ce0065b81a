"""In which order to compute a stage whose functions contain means over the units.

A row is evaluated in *phases*, each a loop over its vectors. The level of a value is the largest number of means
beneath each other that it needs. Phase L computes, vector by vector, the arguments of the means of level L + 1, which
are added up, and the last phase all results. A value that a later phase needs again is *kept* in a row of scratch
memory if it is costly, or else computed again. Values that are the same for all units of a row, such as means and what
is computed from them alone, are *uniform*: computed once per row, between the loops.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from rnnx.cells.derive import COSTS
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, reachable, symbolic_ops, symbols
from rnnx.cells.operations import uses_means
from rnnx.cells.programs import Program
from rnnx.cells.wiring import StageWiring

_COSTLY = 4  # as much as storing a value and loading it; see `rnnx.cells.derive.COSTS`

Job = Literal["forward", "backward"]
Name = tuple[str, int]  # a role of `rnnx.cells.wiring.Argument` or "uniform", "mean", "kept"; and a number


class Step(NamedTuple):
    """A program with the names of its operands and results."""

    program: Program
    operands: tuple[Name, ...]
    results: tuple[Name, ...]


class Phase(NamedTuple):
    """Part of the evaluation of a row; the result ("mean", k) is an argument to be averaged, giving ("uniform", k)."""

    once: Step  # the uniform values that are known from this phase on
    each: Step  # per vector


@lru_cache(maxsize=256)
def phases_of(stage: StageWiring, job: Job, given: tuple[bool, ...]) -> tuple[Phase, ...]:
    """Return the phases of a stage's function, none if it has no means.

    `given` tells for which states the caller gives cotangents.
    """
    if not uses_means(stage):
        return ()
    graph = Graph()
    results = _forward(graph, stage) if job == "forward" else _backward(graph, stage, given)
    phases = _Planner(results).phases
    return tuple(phases) if len(phases) > 1 else ()


def n_kept(phases: Sequence[Phase]) -> int:
    """Return the number of rows of scratch memory that phases need."""
    return sum(role == "kept" for phase in phases for role, _ in phase.each.results)


def _numbered(graph: Graph, role: str, values: Sequence[Expression]) -> dict[Name, Expression]:
    return {(role, k): graph.output(value) for k, value in enumerate(values)}


def _forward(graph: Graph, stage: StageWiring) -> dict[Name, Expression]:
    """Return the results of forward in symbols, whose leaves are named after what they stand for."""
    counts = {"zx": stage.n_zx, "zh": stage.n_zh, "reads": len(stage.reads)}
    zx, zh, reads, given = symbols(graph, **counts, given=len(stage.vectors + stage.inputs))
    if stage.adds_sides:  # the engine does so: zx is the sum
        zh = (graph.constant(0.0),) * stage.n_zh
    new, saved = stage.forward(symbolic_ops(graph), zx, zh, reads, given)
    return _numbered(graph, "writes", new) | _numbered(graph, "saves", saved)


def _backward(graph: Graph, stage: StageWiring, given: tuple[bool, ...]) -> dict[Name, Expression]:
    """Return the results of backward in symbols."""
    ds = list(symbols(graph, d_writes=len(stage.writes))[0])
    for k, slot in enumerate(stage.writes if stage.is_last else ()):
        if given[slot.number]:
            ds[k] = ds[k] + graph.leaf(f"d_given {k}")
    counts = {"reads": len(stage.reads), "writes": len(stage.writes), "saves": len(stage.saves)}
    counts["given"] = len(stage.vectors + stage.inputs)
    values = symbols(graph, **counts)
    rows, d_reads, d_inputs = stage.backward(symbolic_ops(graph), tuple(ds), *values)
    results = _numbered(graph, "d_reads", d_reads) | _numbered(graph, "d_inputs", d_inputs)
    n_gates = len(rows["dzx"]) - len(stage.vectors)
    results |= _numbered(graph, "d_vectors", rows["dzx"][n_gates:])
    for role, row in rows.items():
        results |= _numbered(graph, role, row[:n_gates] if role == "dzx" else row)
    return results


class _Planner:
    """Divides the computation of results into phases."""

    def __init__(self, results: Mapping[Name, Expression]) -> None:
        self.values = reachable(results.values())
        self.level: dict[int, int] = {}
        self.uniform: set[int] = set()
        self.cost: dict[int, int] = {}  # of computing a value again, limited to _COSTLY
        for value in self.values:
            self._classify(value)
        self.found: dict[int, int] = {}  # the first phase that computes each value
        self.kept: dict[int, Expression] = {}
        last = max(self.level.values(), default=0)
        wanted = [self._averaged(level) for level in range(1, last + 1)] + [dict(results)]
        needed = [self._needed(phase, values) for phase, values in enumerate(wanted)]
        self.phases = [
            Phase(self._once(phase), self._each(phase, wanted[phase], needed[phase])) for phase in range(last + 1)
        ]

    def _classify(self, value: Expression) -> None:
        number, arguments = value.number, [a for a in value.arguments if not a.is_constant]
        is_mean = value.operation == "mean"
        self.level[number] = max((self.level[a.number] for a in arguments), default=0) + is_mean
        if is_mean or (arguments and all(a.number in self.uniform for a in arguments)):
            self.uniform.add(number)
        cost = sum(self.cost[a.number] for a in arguments) + COSTS.get(value.operation, 0)
        # A condition is no number that could be kept; its arguments are.
        self.cost[number] = 0 if number in self.uniform or value.is_condition else min(cost, _COSTLY)

    def _averaged(self, level: int) -> dict[Name, Expression]:
        """Return the arguments of the means of a level."""
        means = [value for value in self.values if value.operation == "mean" and self.level[value.number] == level]
        return {("mean", value.number): value.arguments[0] for value in means}

    def _needed(self, phase: int, wanted: Mapping[Name, Expression]) -> list[Expression]:
        """Return what a phase does not compute itself; mark what earlier ones have to keep."""
        todo, seen, needed = list(wanted.values()), set(), []
        while todo:
            value = todo.pop()
            if value.number in seen or value.is_constant:
                continue
            seen.add(value.number)
            if value.operation == "leaf" or value.number in self.uniform:
                needed.append(value)
            elif self.cost[value.number] >= _COSTLY and self.found.get(value.number, phase) < phase:
                self.kept[value.number] = value
                needed.append(value)
            else:
                self.found.setdefault(value.number, phase)
                todo += value.arguments
        return needed

    def _once(self, level: int) -> Step:
        """Return how to compute the uniform values of a level."""
        uniform = [value for value in self.values if value.number in self.uniform]
        results = [value for value in uniform if self.level[value.number] == level and value.operation != "mean"]
        known = [value for value in uniform if self.level[value.number] < level or value.operation == "mean"]
        used = {a.number for value in reachable(results, known) for a in value.arguments}
        return self._step([value for value in known if value.number in used], _named("uniform", results))

    def _each(self, phase: int, wanted: Mapping[Name, Expression], needed: Sequence[Expression]) -> Step:
        kept = [value for number, value in self.kept.items() if self.found[number] == phase]
        return self._step(needed, {**wanted, **_named("kept", kept)})

    def _step(self, operands: Sequence[Expression], results: Mapping[Name, Expression]) -> Step:
        program = Program(operands, list(results.values()))
        return Step(program, tuple(map(self._name, operands)), tuple(results))

    def _name(self, value: Expression) -> Name:
        if value.operation == "leaf":
            role, number = str(value.data).split()
            return role, int(number)
        return "uniform" if value.number in self.uniform else "kept", value.number


def _named(role: str, values: Sequence[Expression]) -> dict[Name, Expression]:
    return {(role, value.number): value for value in values}
