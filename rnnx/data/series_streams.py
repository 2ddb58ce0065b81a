"""Long sequences of numbers for truncated BPTT."""

from typing import Any

import numpy as np

from rnnx._core.checks import integer
from rnnx._core.inputs import bools_to_integers, host_array
from rnnx.data.batches import Batch
from rnnx.data.streams import MOST_STEPS, ParallelStreams


class SeriesStreams(ParallelStreams):
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

    See Also
    --------
    Streams, SeriesWindows

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import SeriesStreams
    >>> audio = np.arange(12.0)
    >>> data = SeriesStreams(audio[None, :-1], audio[None, 1:], seq_length=3)  # predict the next sample
    >>> [(batch.inputs[0].tolist(), batch.continues) for batch in data.batches(batch_size=2)]
    [([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]], False), ([[3.0, 4.0], [8.0, 9.0]], True)]
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
        self.seq_length = min(integer("seq_length", seq_length), MOST_STEPS)

    def __len__(self) -> int:
        """Return the number of steps."""
        return int(self.inputs.shape[1])

    def rows(self, firsts: np.ndarray, *, lengths: np.ndarray, continues: bool) -> Batch:
        """Build a batch of rows with these first steps and equal lengths, (m,), which wrap around at the end."""
        places = (firsts[:, None] + np.arange(lengths[0])) % len(self)
        return Batch(self.inputs[:, places], self.targets[..., places], None, continues=continues)

    def extremes(self) -> Batch:
        """Return all steps as one example, without a copy, for checks."""
        return Batch(self.inputs[:, None], self.targets[..., None, :], None, continues=True)
