"""Pairs of sequences, a source and its target, and batches of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rnnx.datasets import shuffled


@dataclass(frozen=True)
class PairBatch:
    """Pairs side by side, padded with zeros at the end.

    Attributes
    ----------
    source : array of int, shape (m, T_x)
    source_lengths : array of int, shape (m,)
    target_in : array of int, shape (m, T_y)
        What the decoder reads: the end token, then the target.
    target_out : array of int, shape (m, T_y)
        What it should say: the target, then the end token.
    target_lengths : array of int, shape (m,)
        With the end token.
    """

    source: np.ndarray
    source_lengths: np.ndarray
    target_in: np.ndarray
    target_out: np.ndarray
    target_lengths: np.ndarray
    continues: bool = False  # no pair goes on from another's states

    @property
    def lengths(self) -> np.ndarray:
        """The target's: they count the terms of the loss."""
        return self.target_lengths


class Pairs:
    """A dataset of sources and targets.

    Parameters
    ----------
    sources, targets : sequence of array of int
        As many sources as targets.
    end_token : int
        Index, in the targets' vocabulary, of the token that every target starts after and ends with.

    Raises
    ------
    ValueError
        If the numbers of sources and targets differ, or there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.pairs import Pairs
    >>> pairs = Pairs([np.array([1, 2, 3])], [np.array([3, 2, 1])], end_token=0)
    >>> batch = next(pairs.batches(batch_size=1))
    >>> batch.target_in.tolist(), batch.target_out.tolist()
    ([[0, 3, 2, 1]], [[3, 2, 1, 0]])
    """

    def __init__(self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], end_token: int) -> None:
        if len(sources) != len(targets) or not len(sources):
            raise ValueError(
                f"there must be as many targets as sources, and one at least; got {_counts(sources, targets)}"
            )
        self.sources, self.targets, self.end_token = list(sources), list(targets), end_token

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def n_steps(self) -> int:
        """Characters of all targets, with their end tokens."""
        return sum(len(target) + 1 for target in self.targets)

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[PairBatch]:
        """All pairs once; in random order if there is an `rng`.

        Parameters
        ----------
        batch_size : int
        rng : numpy.random.Generator, optional
        start : int
            Batches to leave out at the beginning; they are not built.
        """
        return map(self._batch, shuffled(len(self), batch_size, rng, start))

    def _batch(self, places: np.ndarray) -> PairBatch:
        source, source_lengths = pad([self.sources[i] for i in places])
        targets = [np.asarray(self.targets[i]) for i in places]
        target_in, lengths = pad([np.concatenate([[self.end_token], target]) for target in targets])
        target_out, _ = pad([np.concatenate([target, [self.end_token]]) for target in targets])
        return PairBatch(source, source_lengths, target_in, target_out, lengths)


def pad(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of int as the rows of one array (m, T), zeros behind their ends; and their lengths (m,)."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    padded = np.zeros((len(sequences), lengths.max(initial=0)), np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths


def _counts(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
    return f"{len(sources)} sources and {len(targets)} targets"
