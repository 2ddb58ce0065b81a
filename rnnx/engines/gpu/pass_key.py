"""The key under which captured passes are stored."""

from typing import NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.wiring import StageWiring
from rnnx.engines.gpu.device import DType
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
