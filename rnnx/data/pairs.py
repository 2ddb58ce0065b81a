"""A dataset of sequence pairs: m pairs per batch, T_x source steps, T_y target steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.checks import integer
from rnnx.data.batches import Shuffled, check_rows, index_row, pad, pad_shifted


@dataclass(frozen=True)
class PairBatch:
    """A batch of pairs, zero-padded at the end.

    Attributes
    ----------
    source : array of int, shape (m, T_x)
    source_lengths : array of int, shape (m,), or None
        None if every source has T_x steps.
    target_in : array of int, shape (m, T_y)
        Decoder inputs: the end token, then the target.
    target_out : array of int, shape (m, T_y)
        Expected outputs: the target, then the end token.
    target_lengths : array of int, shape (m,), or None
        Including the end token; None if every target has T_y steps.
    n_terms : int or None
        As for `Batch`.

    See Also
    --------
    Pairs, rnnx.models.Seq2Seq

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Pairs
    >>> pairs = Pairs([np.array([4, 4]), np.array([6])], [np.array([1, 2, 3]), np.array([5])], end_token=0)
    >>> batch = next(pairs.batches(batch_size=2))
    >>> batch.source.tolist(), batch.source_lengths.tolist()
    ([[4, 4], [6, 0]], [2, 1])
    >>> batch.target_out.tolist(), batch.target_lengths.tolist()  # with the end token
    ([[1, 2, 3, 0], [5, 0, 0, 0]], [4, 2])
    """

    source: Any
    source_lengths: Any
    target_in: Any
    target_out: Any
    target_lengths: Any
    continues: bool = False  # pairs are independent
    n_terms: Any = None

    @property
    def size(self) -> int:
        """The number of pairs."""
        return int(self.source.shape[0])

    @property
    def lengths(self) -> Any:
        """The target lengths, or None; their sum is the number of terms in the loss."""
        return self.target_lengths


class Pairs(Shuffled[PairBatch]):
    """Pairs of a source and a target sequence.

    Parameters
    ----------
    sources, targets : sequence of array of int, shape (T,)
        Equally many; a sequence may be empty.
    end_token : int
        Index, in the target vocabulary, of the token that starts and ends every target.

    Raises
    ------
    ValueError, TypeError
        If the numbers of sources and targets differ or are zero, a sequence is not one of indices, or a target contains
        the end token.

    See Also
    --------
    PairBatch, rnnx.models.Seq2Seq

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Pairs
    >>> pairs = Pairs([np.array([1, 2, 3])], [np.array([3, 2, 1])], end_token=0)
    >>> batch = next(pairs.batches(batch_size=1))
    >>> batch.target_in.tolist(), batch.target_out.tolist()
    ([[0, 3, 2, 1]], [[3, 2, 1, 0]])
    """

    def __init__(self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], end_token: int) -> None:
        check_rows("sources", sources)
        check_rows("targets", targets)
        if len(sources) != len(targets) or not len(sources):
            raise ValueError(
                f"`sources` and `targets` must have the same length, at least 1; got {len(sources)} and {len(targets)}"
            )
        self.end_token = integer("end_token", end_token, 0)
        self.sources, self.targets = _sequences("sources", sources), _sequences("targets", targets)
        for i, target in enumerate(self.targets):
            if self.end_token in target:
                raise ValueError(f"`targets` must not contain `end_token` = {self.end_token}; targets[{i}] does")

    def __len__(self) -> int:
        return len(self.sources)

    def extremes(self) -> PairBatch:
        """Return a batch of one pair with the largest indices, for checks; they are never negative."""
        source, target = (
            np.array([[max((int(s.max(initial=0)) for s in rows), default=0)]]) for rows in (self.sources, self.targets)
        )
        one = np.ones(1, np.int64)
        return PairBatch(source, one, np.maximum(target, self.end_token), target, one)

    def gather(self, chosen: np.ndarray) -> PairBatch:
        """Build a batch from the pairs with these indices."""
        return PairBatch(
            *pad([self.sources[i] for i in chosen]), *pad_shifted([self.targets[i] for i in chosen], self.end_token)
        )


def _sequences(name: str, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Check the sequences and convert them to int64."""
    result = []
    for i, sequence in enumerate(sequences):
        array = index_row(name, sequence, i)
        if array.min(initial=0) < 0:
            raise ValueError(f"`{name}` must be indices of at least 0; {name}[{i}] contains {array.min()}")
        result.append(array.astype(np.int64, copy=False))
    return result
