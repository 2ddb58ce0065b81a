"""What a pass depends on, which is the key under which captured passes are stored, and its arrays.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from typing import NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.device import INDEX, DType, Shapes
from rnnx.engines.protocol import Call, Tape


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
        if source.m * source.n_a >= 2**31:
            raise ValueError(f"m * n_a must be less than 2^31 on a GPU; got m = {source.m}, n_a = {source.n_a}")
        cell, dtype, has_lengths = source.cell, np.dtype(source.dtype), source.lengths is not None
        given = set(source.parameters)  # `in` would create views of packed parameters
        optional = tuple(key for key in cell.optional_keys if key in given)
        sizes = (source.n_steps, source.m, source.n_a, source.n_x)
        return cls(cell, dtype, *sizes, source.indices, has_lengths, optional, keep)

    @property
    def n_gates(self) -> int:
        """Number of gates of all stages."""
        return len(self.cell.gates)

    @property
    def size(self) -> int:
        """Estimated bytes of a forward and a backward pass."""
        per_row = (4 * self.n_gates + 2 * len(self.cell.states)) * self.n + 2 * self.n_x
        return self.dtype.itemsize * (self.n_steps * self.m * per_row + self.n_gates * self.n * (self.n + self.n_x))

    def has_recurrent_bias(self, stage: StageWiring) -> bool:
        """Whether a gate of the stage has a recurrent bias."""
        return any(gate.recurrent_bias in self.optional_keys for gate in stage.stage.gates)

    def separate_sides(self, stage: StageWiring) -> bool:
        """Whether the recurrent side has its own array, rather than being added to the input side."""
        return self.indices or not stage.stage.additive

    def packed_shapes(self) -> Shapes:
        """Shapes of the parameters, stacked over gates.

        These are wh<i> (G_i n, n), bh<i> (G_i n,), b (G n,) and wx (G n, n_x), or (n_x, G n) for index inputs.
        """
        shapes: Shapes = {}
        for stage in wiring(self.cell):
            shapes[f"wh{stage.number}"] = ((stage.n_gates * self.n, self.n), self.dtype)
            if self.has_recurrent_bias(stage):
                shapes[f"bh{stage.number}"] = ((stage.n_gates * self.n,), self.dtype)
        rows = self.n_gates * self.n
        shapes["wx"] = ((self.n_x, rows) if self.indices else (rows, self.n_x), self.dtype)
        return {**shapes, "b": ((rows,), self.dtype)}

    def tape_shapes(self) -> Shapes:
        """Shapes of states S<k> (T + 1, m, n), saved values K<k> (T, m, n), inputs X (T, m, n_x), and parameters.

        Index inputs are (T, m). Without `keep`, K<k> hold one step.
        """
        cell, dtype, n_saved = self.cell, self.dtype, self.n_steps if self.keep else 1
        return {
            **{f"S{k}": ((self.n_steps + 1, self.m, self.n), dtype) for k in range(len(cell.states))},
            **{f"K{k}": ((n_saved, self.m, self.n), dtype) for k in range(len(cell.saved))},
            "X": ((self.n_steps, self.m), INDEX) if self.indices else ((self.n_steps, self.m, self.n_x), dtype),
            **self.packed_shapes(),
        }
