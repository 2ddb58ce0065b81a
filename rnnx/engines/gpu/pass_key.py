"""What a pass depends on, which is the key under which captured passes are stored, and its arrays.

Dimensions: T steps, m examples, n units, n_x inputs; n_i units of stage i and n_k of value k, which are n unless the
cell has values of other widths; X rows of Z; G_i gates with a recurrent side of stage i.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx._core.arrays import INDEX
from rnnx.cells import Cell, Gate
from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.device import DType, Shapes
from rnnx.engines.protocol import Call, Tape


class Span(NamedTuple):
    """Rows or columns that are adjacent in several arrays."""

    starts: tuple[int, ...]  # in each array
    size: int


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join the spans that follow one another in all arrays."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last and span.starts == tuple(start + last.size for start in last.starts):
            joined[-1] = Span(last.starts, last.size + span.size)
        elif span.size:
            joined.append(span)
    return tuple(joined)


class Layout(NamedTuple):
    """Where the numbers of each stage begin in arrays over all stages; the last entry is the size of the whole.

    Each span is computed at once. There is one of each kind if all gates have both sides and there are no vectors.
    """

    zx: tuple[int, ...]  # in a row of Z, and in wx and b
    dz: tuple[int, ...]  # in a row of dZ
    sums: tuple[int, ...]  # in the gradients of the biases and vectors
    gates: tuple[int, ...]  # in the rows of the gradients of the weights
    inputs: tuple[Span, ...]  # in dZ, in wx, and in the rows of the gradients of the weights
    summed: tuple[Span, ...]  # in dZ and in `sums`

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, cell: Cell, n: int) -> "Layout":
        """Return the layout of a cell with n units."""
        zx, dz, sums, gates, inputs, summed = [0], [0], [0], [0], [], []
        for stage in wiring(cell):
            units, more = stage.units(n), len(stage.vectors)
            own = stage.n_gates if stage.stage.additive else stage.n_zx
            starts = dz[-1] + stage.blocks["dzx"].start * units, zx[-1], gates[-1] + stage.only_h * units
            inputs.append(Span(starts, stage.n_zx * units))
            summed.append(Span((dz[-1], sums[-1] + (stage.n_gates - own) * units), (own + more) * units))
            zx.append(zx[-1] + stage.n_zx * units)
            dz.append(dz[-1] + (own + more) * units)
            sums.append(sums[-1] + (stage.n_gates + more) * units)
            gates.append(gates[-1] + stage.n_gates * units)
        return cls(tuple(zx), tuple(dz), tuple(sums), tuple(gates), _joined(inputs), _joined(summed))


@lru_cache(maxsize=256)
def _most_units(cell: Cell, n: int) -> int:
    """Return the most units of a stage of a cell with n units."""
    return max(stage.units(n) for stage in wiring(cell))


@lru_cache(maxsize=256)
def _parameter_keys(cell: Cell, optional_keys: tuple[str, ...]) -> tuple[str, ...]:
    optional = [gate.recurrent_bias for gate in cell.gates if gate.recurrent_bias in optional_keys]
    required = [name for gate in cell.gates for name in gate.keys]
    return tuple([name for name in (*required, *optional, *cell.vectors) if name])


class PassKey(NamedTuple):
    """Everything that the memory layout and the work of a pass depend on."""

    cell: Cell
    dtype: DType
    n_steps: int
    m: int
    n: int
    n_x: int
    indices: bool  # whether inputs are indices of one-hot columns
    has_lengths: bool
    optional_keys: tuple[str, ...]  # keys of the given optional parameters
    keep: bool  # whether a backward pass may follow

    @classmethod
    def of(cls, source: Call | Tape, *, keep: bool) -> "PassKey":
        """Return the key of a forward pass, or of the backward pass through a tape.

        Raise ValueError if the kernels cannot count the elements of a state.
        """
        cell, (n_steps, m, n) = source.cell, (source.n_steps, source.m, source.n_a)
        most = _most_units(cell, n)
        if m * most >= 2**31:
            what = "n_a" if most == n else "width"
            raise ValueError(f"m * {what} must be less than 2^31 on a GPU; got m = {m}, {what} = {most}")
        dtype, has_lengths, optional = np.dtype(source.dtype), source.lengths is not None, cell.optional_keys
        if optional:
            given = set(source.parameters)  # `in` would create views of packed parameters
            optional = tuple(key for key in optional if key in given)
        sizes = (n_steps, m, n, source.n_x)
        return cls(cell, dtype, *sizes, source.indices, has_lengths, optional, keep)

    @property
    def layout(self) -> Layout:
        """Where the blocks of each stage are."""
        return Layout.of(self.cell, self.n)

    @property
    def zx_row(self) -> int:
        """Length of a row of Z: the input sides of all stages."""
        return self.layout.zx[-1]

    @property
    def dz_row(self) -> int:
        """Length of a row of dZ: the blocks of all stages, see `StageWiring.blocks`."""
        return self.layout.dz[-1]

    @property
    def parameter_keys(self) -> tuple[str, ...]:
        """Keys of the parameters, in the order in which a call gives them."""
        return _parameter_keys(self.cell, self.optional_keys)

    @property
    def most_columns(self) -> int:
        """The most columns of the recurrent weights of a stage."""
        return max(stage.columns(self.n) for stage in wiring(self.cell))

    @property
    def size(self) -> int:
        """Estimated bytes of a forward and a backward pass."""
        cell, gates = self.cell, self.layout.gates[-1]
        values = sum(self.sizes(cell.vectors)) + 2 * sum(self.sizes(cell.inputs + cell.states))
        per_row = 4 * gates + values + 2 * self.n_x
        return self.dtype.itemsize * (self.n_steps * self.m * per_row + gates * (self.most_columns + self.n_x))

    def gate_rows(self, stage: StageWiring) -> list[tuple[Gate, slice, slice]]:
        """Return a stage's gates, each with its rows of wx and b, and of the stage's wh and bh, if it has them."""
        n = stage.units(self.n)
        first_x = self.layout.zx[stage.number] - stage.only_h * n
        rows = [slice(g * n, (g + 1) * n) for g in range(stage.n_gates)]
        of_inputs = [slice(first_x + row.start, first_x + row.stop) for row in rows]
        return list(zip(stage.stage.gates, of_inputs, rows, strict=True))

    def has_recurrent_bias(self, stage: StageWiring) -> bool:
        """Whether a gate of the stage has a recurrent bias."""
        return any(gate.recurrent_bias in self.optional_keys for gate in stage.stage.gates)

    def separate_sides(self, stage: StageWiring) -> bool:
        """Whether the recurrent side has its own array, rather than being added to the input side."""
        return bool(stage.n_zh) and (self.indices or not stage.adds_sides)

    def packed_shapes(self) -> Shapes:
        """Shapes of the parameters, stacked over the gates that have them.

        These are wh<i> (G_i n_i, columns), bh<i> (G_i n_i,), b (X,), wx (X, n_x), or (n_x, X) for index inputs, and
        v<k> (n_k,), the vectors.
        """
        shapes: Shapes = {}
        for stage in wiring(self.cell):
            rows = stage.n_zh * stage.units(self.n)
            if rows:
                shapes[f"wh{stage.number}"] = ((rows, stage.columns(self.n)), self.dtype)
            if self.has_recurrent_bias(stage):
                shapes[f"bh{stage.number}"] = ((rows,), self.dtype)
        if rows := self.zx_row:
            shapes["wx"] = ((self.n_x, rows) if self.indices else (rows, self.n_x), self.dtype)
            shapes["b"] = ((rows,), self.dtype)
        return shapes | {f"v{k}": ((n,), self.dtype) for k, n in enumerate(self.sizes(self.cell.vectors))}

    def sizes(self, names: Iterable[str]) -> list[int]:
        """Return the numbers of units of values by name."""
        return [self.cell.size(name, self.n) for name in names]

    def tape_shapes(self) -> Shapes:
        """Shapes of states S<k> (T + 1, m, n_k), saved values K<k> (T, m, n_k), inputs X (T, m, n_x), and parameters.

        Index inputs are (T, m), extra inputs E<k> (T, m, n_k). Without `keep`, K<k> hold one step.
        """
        cell, dtype, n_saved = self.cell, self.dtype, self.n_steps if self.keep else 1
        return {
            **{f"S{k}": ((self.n_steps + 1, self.m, n), dtype) for k, n in enumerate(self.sizes(cell.states))},
            **{f"K{k}": ((n_saved, self.m, n), dtype) for k, n in enumerate(self.sizes(cell.saved))},
            "X": ((self.n_steps, self.m), INDEX) if self.indices else ((self.n_steps, self.m, self.n_x), dtype),
            **{f"E{k}": ((self.n_steps, self.m, n), dtype) for k, n in enumerate(self.sizes(cell.inputs))},
            **self.packed_shapes(),
        }
