"""Long sequences of numbers for truncated BPTT."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rnnx._core.checks import check_generator, integer
from rnnx._core.inputs import bools_to_integers, host_array
from rnnx.data.batches import Batch


class SeriesStreams:
    """A long sequence for truncated BPTT, such as audio, read in order in `batch_size` parallel streams.

    As `Streams` does with a text. The model needs `per_step` = True, and is trained with the states carried from batch
    to batch.

    Parameters
    ----------
    inputs : array, shape (n_x, T)
    targets : array of float, shape (n_y, T), or of int, shape (T,)
        Numbers or classes, for each step.
    seq_length : int
        Steps per batch.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match.
    """

    def __init__(self, inputs: Any, targets: Any, seq_length: int) -> None:
        self.inputs = host_array("inputs", inputs)
        self.targets = bools_to_integers(np, host_array("targets", targets))
        self.lengths = None
        if self.inputs.ndim != 2:
            raise ValueError(f"`inputs` must have shape (n_x, T); got {self.inputs.shape}")
        n_steps, is_number = self.inputs.shape[1], self.targets.dtype.kind == "f"
        if self.targets.ndim != 1 + is_number or self.targets.shape[-1] != n_steps:
            shape = f"(n_y, {n_steps})" if is_number else f"({n_steps},)"
            raise ValueError(f"`targets` must have shape {shape}, with the steps of `inputs`; got {self.targets.shape}")
        self.seq_length = integer("seq_length", seq_length)

    def __len__(self) -> int:
        """Return the number of steps."""
        return int(self.inputs.shape[1])

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch. Raise ValueError if there are fewer steps than streams."""
        return -(-self._steps_per_stream(batch_size) // self.seq_length)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """Iterate over all steps in order; `rng` chooses the first step, and the sequence then wraps around."""
        steps, start = self._steps_per_stream(batch_size), integer("start", start, 0)
        if rng is not None:
            check_generator("rng", rng)
        offset = 0 if rng is None else int(rng.integers(len(self)))
        firsts = offset + steps * np.arange(batch_size)
        for at in range(start * self.seq_length, steps, self.seq_length):
            places = (firsts[:, None] + np.arange(at, min(at + self.seq_length, steps))) % len(self)
            yield Batch(self.inputs[:, places], self.targets[..., places], None, continues=at > 0)

    def _steps_per_stream(self, batch_size: int) -> int:
        steps = len(self) // integer("batch_size", batch_size)
        if steps == 0:
            raise ValueError(f"`batch_size` = {batch_size} streams need as many steps; there are {len(self)}")
        return steps

    def extremes(self) -> Batch:
        """Return all steps as one example, without a copy, for checks."""
        return Batch(self.inputs[:, None], self.targets[..., None, :], None)
