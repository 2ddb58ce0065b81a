"""Characters to indices and back, and batches of sequences.

A dataset is anything with `batches` and `n_batches` as `Lines` and `Windows` have them; the trainer asks for
no more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NEWLINE = "\n"


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded with zeros at the end.

    Attributes
    ----------
    inputs, targets : array of int, shape (m, T)
        Indices of characters; targets[j, t] follows inputs[j, t].
    lengths : array of int, shape (m,)
        Steps of each example.
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray


class CharTokenizer:
    """Characters to indices and back.

    Parameters
    ----------
    oov_token : str, optional
        A token of its own, index 0, for characters that `fit` has not seen. Without it they are an error.
    """

    def __init__(self, oov_token: str | None = None) -> None:
        self.oov_token = oov_token
        self._tokens: list[str] = [] if oov_token is None else [oov_token]
        self._index: dict[str, int] = {token: i for i, token in enumerate(self._tokens)}

    @classmethod
    def from_vocab(cls, tokens: Sequence[str], oov_token: str | None = None) -> "CharTokenizer":
        """The tokenizer of a known vocabulary, in its order."""
        tokenizer = cls(oov_token)
        tokenizer._tokens = list(tokens)
        tokenizer._index = {token: i for i, token in enumerate(tokens)}
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._tokens)

    def get_vocab(self) -> list[str]:
        """Tokens in the order of their indices."""
        return list(self._tokens)

    def fit(self, texts: str | Sequence[str]) -> "CharTokenizer":
        """Learn the vocabulary, in the order of code points.

        Parameters
        ----------
        texts : str or sequence of str
        """
        seen = set(texts) if isinstance(texts, str) else set().union(*texts)
        self._tokens = ([] if self.oov_token is None else [self.oov_token]) + sorted(seen)
        self._index = {token: i for i, token in enumerate(self._tokens)}
        return self

    def encode(self, text: str) -> np.ndarray:
        """Indices of the characters of one text, shape (len(text),).

        Raises
        ------
        ValueError
            For a character that is not in the vocabulary, if there is no `oov_token`.
        """
        if self.oov_token is None:
            unknown = sorted(set(text) - self._index.keys())
            if unknown:
                raise ValueError(f"the vocabulary does not hold {', '.join(map(repr, unknown))}")
        return np.array([self._index.get(character, 0) for character in text], dtype=np.int64)

    def decode(self, indices: Sequence[int] | np.ndarray) -> str:
        """The text of a sequence of indices."""
        return "".join(self._tokens[int(i)] for i in indices)

    def texts_to_sequences(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` for every text."""
        return [self.encode(text) for text in texts]

    def sequences_to_texts(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """`decode` for every sequence."""
        return [self.decode(sequence) for sequence in sequences]


class Lines:
    """Every line is a sequence of its own: it starts after a newline and ends with one.

    Parameters
    ----------
    sequences : sequence of array of int
        The lines without their newline.
    newline : int
        Index of the newline.
    """

    def __init__(self, sequences: Sequence[np.ndarray], newline: int) -> None:
        self.sequences = list(sequences)
        self.newline = newline

    def __len__(self) -> int:
        return len(self.sequences)

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return -(-len(self.sequences) // batch_size)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """All sequences once; in random order if there is an `rng`."""
        order = np.arange(len(self.sequences)) if rng is None else rng.permutation(len(self.sequences))
        for at in range(0, len(order), batch_size):
            yield self._pad([self.sequences[i] for i in order[at : at + batch_size]])

    def _pad(self, sequences: list[np.ndarray]) -> Batch:
        lengths = np.array([len(s) + 1 for s in sequences])
        inputs, targets = np.zeros((2, len(sequences), lengths.max()), np.int64)
        for j, s in enumerate(sequences):
            inputs[j, 0], inputs[j, 1 : lengths[j]] = self.newline, s
            targets[j, : lengths[j] - 1], targets[j, lengths[j] - 1] = s, self.newline
        return Batch(inputs, targets, lengths)


class Windows:
    """A continuous text, cut into windows of equal length.

    Parameters
    ----------
    indices : array of int, shape (n,)
        The text; n >= 2.
    length : int
        Steps of a window; the last one may be shorter.
    """

    def __init__(self, indices: np.ndarray, length: int) -> None:
        self.indices = indices
        self.length = length
        self.starts = np.arange(0, len(indices) - 1, length)

    def __len__(self) -> int:
        return len(self.starts)

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return -(-len(self.starts) // batch_size)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        """All windows once; in random order if there is an `rng`."""
        order = self.starts if rng is None else rng.permutation(self.starts)
        for at in range(0, len(order), batch_size):
            starts = order[at : at + batch_size]
            lengths = np.minimum(self.length, len(self.indices) - 1 - starts)
            steps = np.arange(lengths.max())
            places = np.minimum(starts[:, None] + steps, len(self.indices) - 2)
            valid = steps < lengths[:, None]
            yield Batch(self.indices[places] * valid, self.indices[places + 1] * valid, lengths)
