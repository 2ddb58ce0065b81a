"""The widths of a traced cell's values, from those of its gates.

Values that an operation combines have the same width, and so have a state and what the cell returns as it. This divides
the values into classes, whose width is that of the gates in them. The first state's is n_a.
"""

from collections.abc import Mapping

from rnnx.cells.expressions import Expression
from rnnx.cells.tracing import Trace


class Widths:
    """The widths of values of a trace; 0 means n_a."""

    def __init__(self, trace: Trace) -> None:
        self._parent: dict[int, int] = {}
        self._known: dict[int, tuple[int, str]] = {}  # by class: the width, and what has it
        for value in trace.values:
            for argument in value.arguments:
                self._join(value, argument)
        for state, output in zip(trace.states, trace.outputs, strict=True):
            self._join(state, output)
        self._set(trace.states[0], 0, f"state `{trace.signature.states[0]}`")
        for name, gate in trace.signature.gates.items():
            for sides in (trace.zx, trace.zh):
                if name in sides:
                    self._set(sides[name], int(gate.width), f"gate `{name}`")

    def of(self, value: Expression) -> int:
        """Return the width of a value."""
        return self._known.get(self._root(value.number), (0, ""))[0]

    def named(self, trace: Trace, vectors: Mapping[int, str]) -> tuple[tuple[str, int], ...]:
        """Return the widths of states, vectors and inputs by name, without those as wide as n_a."""
        by_number = {value.number: value for value in trace.values}
        values = dict(zip(trace.signature.states, trace.states, strict=True)) | trace.given
        values |= {key: by_number[number] for number, key in vectors.items() if number in by_number}
        return tuple((name, width) for name, value in values.items() if (width := self.of(value)))

    def _root(self, number: int) -> int:
        while (parent := self._parent.get(number, number)) != number:
            number = parent
        return number

    def _join(self, a: Expression, b: Expression) -> None:
        if not (a.is_constant or b.is_constant):
            self._parent[self._root(a.number)] = self._root(b.number)

    def _set(self, value: Expression, width: int, what: str) -> None:
        root = self._root(value.number)
        known, other = self._known.setdefault(root, (width, what))
        if known != width:
            both = f"{other} has {known or 'n_a'} units and {what} {width or 'n_a'}"
            raise ValueError(f"values of different widths are combined: {both}")
