"""Values with a width of their own: stages whose values differ in width, divided into stages of one width each.

All values of a cell have n_a units, unless a gate, and with it what is computed from it, has another *width*. Values of
different widths are only combined in products. A stage with values of several widths is therefore several independent
*parts*, which share nothing but the operand. Each part is a stage itself, whose functions are programs for its share of
the values, so that engines see stages of one width only; the operand may have another one.

A width of 0 means n_a.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from rnnx.cells.cell import Cell
from rnnx.cells.derive import DerivedBackward
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, reachable, symbolic_ops, symbols
from rnnx.cells.inference import Widths
from rnnx.cells.programs import Program, StageForward
from rnnx.cells.stage import Stage


@lru_cache(maxsize=256)
def widths_of(cell: Cell) -> Mapping[str, int]:
    """Return the widths of states, vectors, inputs and saved values by name, without those as wide as n_a.

    Raises
    ------
    ValueError
        If a function combines values of different widths, or a state gets another width than it has.
    """
    widths = {name: width for name, width in cell.widths if width}
    reads: Sequence[str] = cell.states
    for k, stage in enumerate(cell.stages):
        operand = widths.get(reads[0], 0)
        if wrong := [gate.weights[0] for gate in stage.recurrent if gate.operand_width != operand]:
            raise ValueError(
                f"`operand_width` of {wrong} of cell {cell.name!r} must be {operand}, that of {reads[0]!r}"
            )
        found = _found(cell, stage, reads, widths)
        names = (*stage.out, *stage.saved)
        if k == len(cell.stages) - 1:
            for state, width in zip(stage.out, found, strict=False):
                if width != widths.get(state, 0):
                    expected = f"must have {widths.get(state) or 'n_a'} units, its width"
                    raise ValueError(f"state {state!r} of cell {cell.name!r} {expected}; got {width or 'n_a'}")
        widths |= {name: width for name, width in zip(names, found, strict=True) if width}
        reads = stage.out
    return widths


def _found(cell: Cell, stage: Stage, reads: Sequence[str], widths: Mapping[str, int]) -> list[int]:
    """Return the widths of what a stage's forward function returns, given those of the values that it reads."""
    own = _Symbols(stage, len(reads))
    new, saved = own.forward()
    results = [own.graph.output(value) for value in (*new, *saved)]
    found = Widths(reachable(results))
    gates = (*zip(own.zx, stage.of_inputs, strict=True), *zip(own.zh, stage.recurrent, strict=True))
    known = [(value, int(gate.width), gate.weights[0]) for value, gate in gates]
    names = (*reads, *stage.vectors, *stage.inputs)
    known += [(value, widths.get(name, 0), name) for value, name in zip((*own.reads, *own.given), names, strict=True)]
    try:
        for value, width, name in known:
            found.set(value, width, f"{name!r}")
    except ValueError as error:
        raise ValueError(f"cell {cell.name!r}: {error}") from None
    return [found.of(value) for value in results]


class _Symbols:
    """A stage's arguments as symbols."""

    def __init__(self, stage: Stage, n_reads: int) -> None:
        self.stage, self.graph = stage, Graph()
        counts = {"zx": len(stage.of_inputs), "zh": len(stage.recurrent), "s": n_reads}
        self.zx, self.zh, self.reads, self.given = symbols(self.graph, **counts, v=len(stage.vectors + stage.inputs))

    def chosen(self, groups: Sequence[Sequence[Expression]], places: Sequence[Sequence[int]]) -> list[Expression]:
        """Return the values at some places of each group."""
        pairs = zip(groups, places, strict=True)
        return [self.graph.output(values[k]) for values, numbers in pairs for k in numbers]

    @property
    def _more(self) -> tuple[tuple[Expression, ...], ...]:
        return (self.given,) if self.given else ()

    def forward(self) -> tuple[tuple[Expression, ...], tuple[Expression, ...]]:
        """Return what forward writes and saves."""
        new, saved = self.stage.forward(symbolic_ops(self.graph), self.zx, self.zh, self.reads, *self._more)
        return new, saved

    def backward(self) -> tuple[tuple[tuple[Expression, ...], ...], tuple[tuple[Expression, ...], ...]]:
        """Return the arguments and the results of backward: ds, s_prev, s_next, saved and given; dzx, dzh, ds_prev and
        d_given.
        """
        n_out = len(self.stage.out)
        ds, new, saved = symbols(self.graph, d=n_out, q=n_out, k=len(self.stage.saved))
        results = self.stage.backward(symbolic_ops(self.graph), ds, self.reads, new, saved, *self._more)
        return (ds, self.reads, new, saved, self.given), (*results, *(() if self.given else ((),)))


@dataclass(frozen=True)
class PartBackward:
    """The backward function of a part: a program that is made when it is first called."""

    stage: Stage  # the whole stage
    n_reads: int
    arguments: tuple[tuple[int, ...], ...]  # places of the part's values in ds, s_prev, s_next, saved and given
    results: tuple[tuple[int, ...], ...]  # and in dzx, dzh, ds_prev and d_given

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        """Return (dzx, dzh, ds_prev), and d_given if the part has vectors or inputs."""
        return self._derived(*arguments)

    @cached_property
    def _derived(self) -> DerivedBackward:
        symbols = _Symbols(self.stage, self.n_reads)
        arguments, results = symbols.backward()
        program = Program(symbols.chosen(arguments, self.arguments), symbols.chosen(results, self.results))
        of_x, of_h, _, of_given = map(len, self.results)
        return DerivedBackward(program, of_x, of_h, of_given)


class Part(NamedTuple):
    """The values of one width of a stage."""

    width: int
    stage: Stage
    reads: tuple[int, ...]  # indices in what the whole stage reads
    writes: tuple[int, ...]  # and writes
    saves: tuple[int, ...]


def parts_of(stage: Stage, reads: Sequence[str], widths: Mapping[str, int]) -> list[Part]:
    """Divide a stage that reads values of these names; the part of the operand comes last.

    A backward pass then begins with it: it writes the cotangent of the operand, to which the products add.
    """
    names = (*reads, *stage.out, *stage.saved, *stage.vectors, *stage.inputs)
    found = {int(gate.width) for gate in stage.gates} | {widths.get(name, 0) for name in names}
    operand = widths.get(reads[0], 0)
    if found == {operand}:
        everything = (tuple(range(len(values))) for values in (reads, stage.out, stage.saved))
        return [Part(operand, stage, *everything)]
    return [_part(stage, reads, widths, width) for width in sorted(found, key=lambda width: (width == operand, width))]


def _part(stage: Stage, reads: Sequence[str], widths: Mapping[str, int], width: int) -> Part:
    def places(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(k for k, name in enumerate(names) if widths.get(name, 0) == width)

    of_x, of_h = (
        tuple(k for k, gate in enumerate(gates) if gate.width == width) for gates in (stage.of_inputs, stage.recurrent)
    )
    given = places((*stage.vectors, *stage.inputs))
    place_r, place_w, place_s = places(reads), places(stage.out), places(stage.saved)
    symbols = _Symbols(stage, len(reads))
    arguments = symbols.zx, symbols.zh, symbols.reads, symbols.given
    new, saved = symbols.forward()
    forward = Program(
        symbols.chosen(arguments, (of_x, of_h, place_r, given)), symbols.chosen((new, saved), (place_w, place_s))
    )
    of_arguments, of_results = (place_w, place_r, place_w, place_s, given), (of_x, of_h, place_r, given)
    own = Stage(
        tuple(gate for gate in stage.gates if gate.width == width),
        tuple(stage.out[k] for k in place_w),
        tuple(stage.saved[k] for k in place_s),
        StageForward(forward, len(place_w)),
        PartBackward(stage, len(reads), of_arguments, of_results),
        stage.additive,
        tuple(key for key in stage.vectors if widths.get(key, 0) == width),
        tuple(name for name in stage.inputs if widths.get(name, 0) == width),
    )
    return Part(width, own, place_r, place_w, place_s)
