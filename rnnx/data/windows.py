"""Datasets of texts: independent lines, independent windows, and streams that carry states from batch to batch."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rnnx._core.checks import integer
from rnnx.data.batches import Batch, Shuffled, check_rows, pad_shifted
from rnnx.data.steps import Pieces, Steps
from rnnx.data.streams import MOST_STEPS, ParallelStreams


class Lines(Shuffled[Batch]):
    """Independent lines; each is predicted after a newline and ends with one.

    Parameters
    ----------
    sequences : sequence of array of int
        The lines without newlines; a line is accessed only when a batch needs it.
    newline : int

    See Also
    --------
    make_corpus, Windows, rnnx.models.CharModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Lines
    >>> batch = next(Lines([np.array([2, 1]), np.array([1])], newline=0).batches(2))
    >>> batch.inputs.tolist(), batch.targets.tolist(), batch.lengths.tolist()
    ([[0, 2, 1], [0, 1, 0]], [[2, 1, 0], [1, 0, 0]], [3, 2])
    """

    def __init__(self, sequences: Sequence[np.ndarray], newline: int) -> None:
        check_rows("sequences", sequences)
        self.sequences = sequences
        self.newline = integer("newline", newline, 0)
        self._on_device: tuple[Steps, np.ndarray, np.ndarray] | None = (
            None  # one text, with the rows' starts and lengths
        )

    def __len__(self) -> int:
        return len(self.sequences)

    def gather(self, chosen: np.ndarray) -> Batch:
        """Build a batch from the lines with these indices."""
        if self._on_device is None:
            return Batch(*pad_shifted([self.sequences[i] for i in chosen], self.newline))
        steps, firsts, lengths = self._on_device
        return steps.rows(firsts[chosen], lengths=lengths[chosen], continues=False)

    def on_device(self, xp: Any, device: Any) -> "Lines":
        """Copy the lines to a device, as one text with a newline before each line and after the last."""
        newline = np.array([self.newline], np.min_scalar_type(self.newline))
        text = np.concatenate([part for s in self.sequences for part in (newline, s)] + [newline])
        lengths = np.array([len(s) + 1 for s in self.sequences])
        there = copy.copy(self)
        there._on_device = Steps(text).on_device(xp, device), np.cumsum(lengths) - lengths, lengths
        return there


class Windows(Steps, Shuffled[Batch]):
    """A continuous text, cut into independent windows of equal length.

    Parameters
    ----------
    indices : array of int, shape (n,)
        The text; n >= 2.
    seq_length : int
        Steps per window; the last window of a piece may be shorter.
    pieces : sequence of (start, stop), optional
        Parts of the text to use, at least 2 characters each; default: all of it. A window and its targets lie in one
        piece.

    See Also
    --------
    Streams, Lines, make_corpus

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Windows
    >>> batch = next(Windows(np.arange(10), seq_length=3).batches(batch_size=2))
    >>> batch.inputs.tolist(), batch.targets.tolist()
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """

    def __init__(self, indices: np.ndarray, seq_length: int, pieces: Pieces | None = None) -> None:
        super().__init__(indices, pieces)
        self.seq_length = min(integer("seq_length", seq_length), MOST_STEPS)
        counts = -(-self.sizes // self.seq_length)
        self._last = np.cumsum(counts)  # windows up to the end of each piece
        self._firsts = self._last - counts

    def __len__(self) -> int:
        return int(self._last[-1])

    def gather(self, chosen: np.ndarray) -> Batch:
        """Build a batch from the windows with these indices."""
        piece = np.searchsorted(self._last, chosen, side="right")
        end = self.ends[piece]
        firsts = end - self.sizes[piece] + (chosen - self._firsts[piece]) * self.seq_length
        return self.rows(firsts, lengths=np.minimum(self.seq_length, end - firsts), continues=False)


class Streams(Steps, ParallelStreams):
    """A continuous text for truncated BPTT, read in order in `batch_size` parallel streams.

    The text is split into `batch_size` consecutive streams of equal length, dropping up to ``batch_size - 1`` steps.
    Every batch holds the next `seq_length` steps of all streams (the last batch may hold fewer), and ``continues`` is
    True for all batches but the first.

    Parameters
    ----------
    indices, pieces
        As for `Windows`. Streams run across pieces as if they were one text: after a boundary the carried states come
        from the previous piece, but the first characters of the next one soon overwrite them.
    seq_length : int
        Steps per batch.

    See Also
    --------
    Windows, SeriesStreams, make_corpus

    Notes
    -----
    Every stream starts from zero states, so on a small text losses of different batch sizes are not quite comparable.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Streams
    >>> data = Streams(np.arange(13), seq_length=4)
    >>> [(batch.inputs.tolist(), batch.continues) for batch in data.batches(batch_size=2)]
    [([[0, 1, 2, 3], [6, 7, 8, 9]], False), ([[4, 5], [10, 11]], True)]
    """

    _what = "text"

    def __init__(self, indices: np.ndarray, seq_length: int, pieces: Pieces | None = None) -> None:
        super().__init__(indices, pieces)
        self.seq_length = min(integer("seq_length", seq_length), MOST_STEPS)

    def __len__(self) -> int:
        """Return the number of steps: all characters except the first of each piece."""
        return int(self.ends[-1])

    def extremes(self) -> Batch:
        """Return all characters as one row, without a copy, for checks."""
        return replace(super().extremes(), continues=True)
