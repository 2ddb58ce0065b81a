"""The order in which long sequences are read for truncated BPTT, in m parallel streams."""

from abc import abstractmethod
from collections.abc import Iterator, Sized
from typing import ClassVar

import numpy as np

from rnnx._core.checks import check_generator, integer
from rnnx.data.batches import Batch

MOST_STEPS = 10**9  # larger numbers could overflow in the arithmetic with indices


class ParallelStreams(Sized):
    """Base of datasets of one sequence that is read in order, in `batch_size` streams of equal length.

    Subclasses define `__len__`, the number of steps, and `rows`.
    """

    seq_length: int  # steps per batch
    _what: ClassVar[str] = "sequence"  # in messages

    @abstractmethod
    def rows(self, firsts: np.ndarray, *, lengths: np.ndarray, continues: bool) -> Batch:
        """Build a batch of rows with these first steps and lengths, (m,), which wrap around at the end."""

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch. Raise ValueError if there are fewer than `batch_size` steps."""
        return -(-self._steps_per_stream(batch_size) // self.seq_length)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """Iterate over all steps once, in order, without building the first `start` batches.

        `rng` chooses the first step, and the sequence then wraps around.
        """
        steps, start = self._steps_per_stream(batch_size), integer("start", start, 0)
        if rng is not None:
            check_generator("rng", rng)
        offset = 0 if rng is None else int(rng.integers(len(self)))
        firsts = offset + steps * np.arange(batch_size)
        return (
            self.rows(firsts + at, lengths=np.full(batch_size, min(self.seq_length, steps - at)), continues=at > 0)
            for at in range(start * self.seq_length, steps, self.seq_length)
        )

    def _steps_per_stream(self, batch_size: int) -> int:
        steps = len(self) // integer("batch_size", batch_size)
        if steps == 0:
            short = f"the {self._what} is too short for `batch_size` = {batch_size} streams"
            raise ValueError(f"{short}: it has {len(self)} steps")
        return steps
