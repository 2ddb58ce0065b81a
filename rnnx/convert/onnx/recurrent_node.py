"""An LSTM, GRU or RNN node of a file: its directions with cells and weights, and what it reads.

Dimensions: T steps, m examples, n units, k gates, n_x inputs, D directions.
"""

from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import CELLS, Cell
from rnnx.convert.blocks import Blocks, peer_arrays
from rnnx.convert.onnx.elements import Elements, attributes, error, title

# Cells by operator and activations; that of a GRU depends on linear_before_reset.
RECURRENT: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {
    "LSTM": {("sigmoid", "tanh", "tanh"): ("lstm",)},
    "GRU": {("sigmoid", "tanh"): ("gru", "gru_reset_after")},
    "RNN": {("tanh",): ("rnn",), ("relu",): ("relu_rnn",)},
}


class Direction(NamedTuple):
    """A recurrent layer in one direction. States are numbers, or constants, by name."""

    node: Any
    cell: Cell
    blocks: Blocks
    reverse: bool
    x: np.ndarray  # (T, m, n_x)
    lengths: str
    start: dict[str, Elements | np.ndarray]  # (m, n)
    y: np.ndarray  # (T, m, n)
    final: dict[str, np.ndarray]  # (m, n)


class RecurrentNode:
    """A recurrent node of a `Trace`, which numbers new elements."""

    def __init__(self, node: Any, values: list[Any], trace: Any) -> None:
        self.node, self.options = node, attributes(node)
        self.x, self.w, self.r, self.b, lengths, *states = [*values, *[None] * 8][:8]
        way = self.options.get("direction", b"forward").decode()
        self.ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[way]
        self.cell = self._cell()
        self._check(states)
        self.lengths = self._lengths(lengths, trace)
        self.start = dict(zip(self.cell.states, states, strict=False))
        self.directions = [self._direction(d, reverse, trace) for d, reverse in enumerate(self.ways)]
        y = np.stack([one.y for one in self.directions], axis=1)
        final = [np.stack([one.final[state] for one in self.directions]) for state in self.cell.states]
        if self.by_example:
            y, final = y.transpose(2, 0, 1, 3), [s.swapaxes(0, 1) for s in final]
        self.outputs = [Elements(value) for value in (y, *final)]

    @property
    def by_example(self) -> bool:
        """Whether the examples are the first axis, the steps the second."""
        return bool(self.options.get("layout", 0))

    def _cell(self) -> Cell:
        kinds = RECURRENT[self.node.op_type]
        given = [name.decode().lower() for name in self.options.get("activations", [])]
        per_way = len(given) // len(self.ways)
        used = tuple(given[:per_way]) or next(iter(kinds))
        if given != list(used) * (len(self.ways) if given else 0) or used not in kinds:
            known = " or ".join(map(str, map(list, kinds)))
            raise error(self.node, f"`activations` must be {known} in each direction; got {given}")
        cells = kinds[used]
        return CELLS[cells[self.options.get("linear_before_reset", 0) if len(cells) > 1 else 0]]

    def _check(self, states: list[Any]) -> None:
        """Raise unless the cell is the plain one, and the weights are constants of the right number of axes."""
        if self.options.get("clip"):
            raise error(self.node, "`clip` limits its activations")
        if self.options.get("input_forget"):
            raise error(self.node, "`input_forget` couples its gates")
        if self.node.op_type == "LSTM" and states[2] is not None and np.any(states[2]):
            raise error(self.node, "it has peepholes")
        if not isinstance(self.x, Elements) or self.x.numbers.ndim != 3 or self.x.is_integer:
            raise error(self.node, "X must have 3 axes and depend on an input of the file that is not of integers")
        for name, value, ndim in (("W", self.w, 3), ("R", self.r, 3), ("B", self.b, 2)):
            if value is None and name == "B":
                continue
            if not isinstance(value, np.ndarray) or value.ndim != ndim or len(value) != len(self.ways):
                raise error(self.node, f"{name} must be a constant with {ndim} axes, the first of {len(self.ways)}")
        n_x, width = self.x.numbers.shape[2], self.w.shape[2]
        if n_x != width:
            raise error(self.node, f"X has {n_x} features, W has {width}; the sizes of the file's inputs must be known")

    def _lengths(self, value: Any, trace: Any) -> str:
        """Return the name of the input of the file that has the lengths, or ""."""
        steps = self.x.numbers.shape[1 if self.by_example else 0]
        if value is None or (isinstance(value, np.ndarray) and (value == steps).all()):
            return ""
        if isinstance(value, Elements):
            for given in trace.inputs:
                if np.array_equal(given.numbers.ravel(), value.numbers):
                    return str(given.name)
        raise error(self.node, "sequence_lens must be an input of the file")

    def _direction(self, d: int, reverse: bool, trace: Any) -> Direction:
        of = f"of {title(self.node)}"
        named = {f"W {of}": ("(k n_a, n_x)", self.w[d]), f"R {of}": ("(k n_a, n_a)", self.r[d])}
        if self.b is not None:
            halves = np.split(self.b[d], 2)
            named |= {f"{name} {of}": ("(k n_a,)", half) for name, half in zip(("Wb", "Rb"), halves, strict=True)}
        blocks = Blocks.of(*peer_arrays(named, self.cell))
        x = self.x.numbers.swapaxes(0, 1) if self.by_example else self.x.numbers
        (steps, m, _), n = x.shape, blocks.w_h.shape[1]
        y = trace.new(steps, m, n)
        final = {state: trace.new(m, n) for state in self.cell.states}
        if not self.lengths:
            final[self.cell.states[0]] = y[0 if reverse else -1]
        start = {state: self._of_direction(value, d) for state, value in self.start.items() if value is not None}
        return Direction(self.node, self.cell, blocks, reverse, x, self.lengths, start, y, final)

    def _of_direction(self, value: Any, d: int) -> Elements | np.ndarray:
        """Return the initial state (m, n) of a direction."""
        numbers = value.numbers if isinstance(value, Elements) else value
        if numbers.ndim != 3:
            raise error(self.node, "an initial state must have 3 axes")
        one = numbers[:, d] if self.by_example else numbers[d]
        return Elements(one) if isinstance(value, Elements) else one
