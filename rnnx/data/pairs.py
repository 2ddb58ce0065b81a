"""Pairs of sequences, a source and its target, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rnnx._core.checks import integer
from rnnx.data.batches import Shuffled


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


class Pairs(Shuffled[PairBatch]):
    """A dataset of sources and targets.

    Parameters
    ----------
    sources, targets : sequence of array of int, shape (T,)
        As many sources as targets. They may be empty.
    end_token : int
        Index, in the targets' vocabulary, of the token that every target starts after and ends with.

    Raises
    ------
    ValueError
        If the numbers of sources and targets differ, or there is none; if one is not made of indices; if a target
        holds the end token.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data.pairs import Pairs
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
        self.end_token = integer("end_token", end_token, 0)
        self.sources, self.targets = _sequences("sources", sources), _sequences("targets", targets)
        for i, target in enumerate(self.targets):
            if self.end_token in target:
                raise ValueError(f"`targets` must not hold `end_token`, {self.end_token}; number {i} does")

    def __len__(self) -> int:
        return len(self.sources)

    def gather(self, chosen: np.ndarray) -> PairBatch:
        """The batch of these pairs."""
        source, source_lengths = pad([self.sources[i] for i in chosen])
        targets = [self.targets[i] for i in chosen]
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


def _sequences(name: str, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every one as int64; the message says which one is none."""
    result = []
    for i, sequence in enumerate(sequences):
        try:
            array = np.asarray(sequence)
        except ValueError:  # rows of different lengths
            raise ValueError(f"`{name}` must hold 1-D arrays of int; number {i} has rows") from None
        if array.shape == (0,):
            array = np.zeros(0, np.int64)  # NumPy takes an empty list for numbers
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must hold 1-D arrays of int; number {i} has shape {array.shape}, dtype {array.dtype}"
            )
        if array.size and array.min() < 0:
            raise ValueError(f"`{name}` must hold indices of at least 0; number {i} has {array.min()}")
        result.append(array.astype(np.int64, copy=False))
    return result


def _counts(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> str:
    return f"{len(sources)} sources and {len(targets)} targets"
