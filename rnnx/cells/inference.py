"""The widths of values, from those of gates, states, vectors and inputs.

Values that an operation combines have the same width. This divides values into classes, whose width is that of the
gates and other known values in them. In a traced cell, a state is in one class with what the cell returns as it, and
the first state has n_a units.
"""

from collections.abc import Iterable, Mapping

from rnnx.cells.expressions import Expression
from rnnx.cells.tracing import Trace


class Widths:
    """The widths of values; 0 means n_a.

    `values` are those that have arguments, with any others.
    """

    def __init__(self, values: Iterable[Expression]) -> None:
        self._parent: dict[int, int] = {}
        self._known: dict[int, tuple[int, str]] = {}  # by class: the width, and what has it
        for value in values:
            for argument in value.arguments:
                self.join(value, argument)

    def join(self, a: Expression, b: Expression) -> None:
        """Note that two values have the same width, before any width is known."""
        if not (a.is_constant or b.is_constant):
            self._parent[self._root(a.number)] = self._root(b.number)

    def set(self, value: Expression, width: int, what: str) -> None:
        """Note the width of a value, `what` in messages. Raise ValueError if its class has another one."""
        known, other = self._known.setdefault(self._root(value.number), (width, what))
        if known != width:
            both = f"{other} has {known or 'n_a'} units and {what} {width or 'n_a'}"
            raise ValueError(f"values of different widths are combined: {both}")

    def of(self, value: Expression) -> int:
        """Return the width of a value."""
        return self._known.get(self._root(value.number), (0, ""))[0]

    def _root(self, number: int) -> int:
        while (parent := self._parent.get(number, number)) != number:
            number = parent
        return number


def widths_in(trace: Trace) -> Widths:
    """Return the widths of the values of a traced cell."""
    widths = Widths(trace.values)
    for state, output in zip(trace.states, trace.outputs, strict=True):
        widths.join(state, output)
    widths.set(trace.states[0], 0, f"state `{trace.signature.states[0]}`")
    for name, gate in trace.signature.gates.items():
        for sides in (trace.zx, trace.zh):
            if name in sides:
                widths.set(sides[name], int(gate.width), f"gate `{name}`")
    return widths


def named_widths(widths: Widths, trace: Trace, vectors: Mapping[int, str]) -> tuple[tuple[str, int], ...]:
    """Return the widths of states, vectors and inputs by name, without those as wide as n_a."""
    by_number = {value.number: value for value in trace.values}
    values = dict(zip(trace.signature.states, trace.states, strict=True)) | trace.given
    values |= {key: by_number[number] for number, key in vectors.items() if number in by_number}
    return tuple((name, width) for name, value in values.items() if (width := widths.of(value)))
