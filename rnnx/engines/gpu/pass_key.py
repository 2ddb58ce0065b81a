"""What a pass depends on, which is the key under which captured passes are stored, and its arrays.

Dimensions: T steps, m examples, n units, n_x inputs; G_x gates with an input side of all stages, G_i gates with a
recurrent side of stage i; B blocks of a row of dZ, see `StageWiring.blocks`.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx.cells import Cell, Gate
from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.device import INDEX, DType, Shapes
from rnnx.engines.protocol import Call, Tape


class Span(NamedTuple):
    """Rows or columns that are adjacent in several arrays, in blocks of n."""

    starts: tuple[int, ...]  # in each array
    blocks: int


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join the spans that follow one another in all arrays."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last and span.starts == tuple(start + last.blocks for start in last.starts):
            joined[-1] = Span(last.starts, last.blocks + span.blocks)
        elif span.blocks:
            joined.append(span)
    return tuple(joined)


class Layout(NamedTuple):
    """Where the blocks of each stage begin in arrays over all stages; the last entry is the number of blocks.

    Each span is computed at once. There is one of each kind if all gates have both sides and there are no vectors.
    """

    zx: tuple[int, ...]  # in Z, wx and b
    dz: tuple[int, ...]  # in a row of dZ
    sums: tuple[int, ...]  # in the gradients of the biases and vectors
    inputs: tuple[Span, ...]  # in dZ, in wx, and in the rows of the gradients of the weights
    summed: tuple[Span, ...]  # in dZ and in `sums`

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, cell: Cell) -> "Layout":
        """Return the layout of a cell."""
        zx, dz, sums, inputs, summed = [0], [0], [0], [], []
        for stage in wiring(cell):
            blocks, only_h, more = stage.blocks, stage.only_h, len(stage.vectors)
            own = stage.n_gates if stage.stage.additive else stage.n_zx
            inputs.append(Span((dz[-1] + blocks["dzx"].start, zx[-1], stage.first_gate + only_h), stage.n_zx))
            summed.append(Span((dz[-1], sums[-1] + stage.n_gates - own), own + more))
            zx.append(zx[-1] + stage.n_zx)
            dz.append(dz[-1] + own + more)
            sums.append(sums[-1] + stage.n_gates + more)
        return cls(tuple(zx), tuple(dz), tuple(sums), _joined(inputs), _joined(summed))


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

        Raise ValueError if the kernels cannot count the elements of a state, or do not support the cell.
        """
        if source.cell.has_widths:
            what = f"cells with several widths, such as {source.cell.name!r}"
            raise ValueError(f"the gpu engine does not run {what}; use `rnnx.use_engine('reference')`")
        if source.m * source.n_a >= 2**31:
            raise ValueError(f"m * n_a must be less than 2^31 on a GPU; got m = {source.m}, n_a = {source.n_a}")
        cell, dtype, has_lengths = source.cell, np.dtype(source.dtype), source.lengths is not None
        given = set(source.parameters)  # `in` would create views of packed parameters
        optional = tuple(key for key in cell.optional_keys if key in given)
        sizes = (source.n_steps, source.m, source.n_a, source.n_x)
        return cls(cell, dtype, *sizes, source.indices, has_lengths, optional, keep)

    @property
    def layout(self) -> Layout:
        """Where the blocks of each stage are."""
        return Layout.of(self.cell)

    @property
    def n_zx(self) -> int:
        """Number of gates with an input side of all stages."""
        return self.layout.zx[-1]

    @property
    def n_dz(self) -> int:
        """Number of blocks of a row of dZ."""
        return self.layout.dz[-1]

    @property
    def size(self) -> int:
        """Estimated bytes of a forward and a backward pass."""
        cell, n_gates = self.cell, len(self.cell.gates)
        blocks = 4 * n_gates + len(cell.vectors) + 2 * len(cell.inputs) + 2 * len(cell.states)
        per_row = blocks * self.n + 2 * self.n_x
        return self.dtype.itemsize * (self.n_steps * self.m * per_row + n_gates * self.n * (self.n + self.n_x))

    def gate_rows(self, stage: StageWiring) -> list[tuple[Gate, slice, slice]]:
        """Return a stage's gates, each with its rows of wx and b, and of the stage's wh and bh, if it has them."""
        first_x = self.layout.zx[stage.number] - stage.only_h
        rows = [slice(g * self.n, (g + 1) * self.n) for g in range(stage.n_gates)]
        of_inputs = [slice((first_x + g) * self.n, (first_x + g + 1) * self.n) for g in range(stage.n_gates)]
        return list(zip(stage.stage.gates, of_inputs, rows, strict=True))

    def has_recurrent_bias(self, stage: StageWiring) -> bool:
        """Whether a gate of the stage has a recurrent bias."""
        return any(gate.recurrent_bias in self.optional_keys for gate in stage.stage.gates)

    def separate_sides(self, stage: StageWiring) -> bool:
        """Whether the recurrent side has its own array, rather than being added to the input side."""
        return bool(stage.n_zh) and (self.indices or not stage.adds_sides)

    def packed_shapes(self) -> Shapes:
        """Shapes of the parameters, stacked over the gates that have them.

        These are wh<i> (G_i n, n / heads), bh<i> (G_i n,), b (G_x n,), wx (G_x n, n_x), or (n_x, G_x n) for index
        inputs, and v<k> (n,), the vectors.
        """
        shapes: Shapes = {}
        for stage in wiring(self.cell):
            if stage.n_zh:
                shapes[f"wh{stage.number}"] = ((stage.n_zh * self.n, self.n // stage.heads), self.dtype)
            if self.has_recurrent_bias(stage):
                shapes[f"bh{stage.number}"] = ((stage.n_zh * self.n,), self.dtype)
        if rows := self.n_zx * self.n:
            shapes["wx"] = ((self.n_x, rows) if self.indices else (rows, self.n_x), self.dtype)
            shapes["b"] = ((rows,), self.dtype)
        return shapes | {f"v{k}": ((self.n,), self.dtype) for k in range(len(self.cell.vectors))}

    def tape_shapes(self) -> Shapes:
        """Shapes of states S<k> (T + 1, m, n), saved values K<k> (T, m, n), inputs X (T, m, n_x), and parameters.

        Index inputs are (T, m), extra inputs E<k> (T, m, n). Without `keep`, K<k> hold one step.
        """
        cell, dtype, n_saved = self.cell, self.dtype, self.n_steps if self.keep else 1
        return {
            **{f"S{k}": ((self.n_steps + 1, self.m, self.n), dtype) for k in range(len(cell.states))},
            **{f"K{k}": ((n_saved, self.m, self.n), dtype) for k in range(len(cell.saved))},
            "X": ((self.n_steps, self.m), INDEX) if self.indices else ((self.n_steps, self.m, self.n_x), dtype),
            **{f"E{k}": ((self.n_steps, self.m, self.n), dtype) for k in range(len(cell.inputs))},
            **self.packed_shapes(),
        }
