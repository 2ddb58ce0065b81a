"""What a pass on a queue depends on: its key, as it were."""

from typing import NamedTuple

import numpy as np

from rnnx.cells import Cell


class Setup(NamedTuple):
    """All that the memory and the work of a pass depend on."""

    cell: Cell
    dtype: np.dtype
    n_steps: int
    m: int
    n: int
    n_x: int
    indexed: bool  # inputs are indices of one-hot columns
    ended: bool  # examples have lengths
    biases: tuple[bool, ...]  # per stage, whether there is a recurrent bias
    keep: bool

    @property
    def size(self) -> int:
        """About how many bytes a forward pass and a backward pass of it hold."""
        a_step = (4 * self.n_gates + 2 * len(self.cell.states)) * self.n + 2 * self.n_x
        return self.dtype.itemsize * (self.n_steps * self.m * a_step + self.n_gates * self.n * (self.n + self.n_x))

    @property
    def n_gates(self) -> int:
        """Gates of all stages."""
        return len(self.cell.gates)

    @property
    def beside(self) -> list[bool]:
        """Per stage, whether the recurrent side stands beside the input side; else it is added to it."""
        return [self.indexed or not stage.additive for stage in self.cell.stages]
