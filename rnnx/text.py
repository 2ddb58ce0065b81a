"""Text: reading it, characters to indices and back, and batches of sequences.

A dataset is anything with `batches` and `n_batches` as `Lines` and `Windows` have them; the trainer asks for
no more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

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


@dataclass(frozen=True)
class Corpus:
    """A text as datasets for training and validation.

    Attributes
    ----------
    name : str
    by : str
        "lines" or "windows".
    tokenizer : CharTokenizer
    train, validation : Lines or Windows
    split : str
        In words, how the validation part was chosen: losses of different splits are not comparable.
    """

    name: str
    by: str
    tokenizer: CharTokenizer
    train: Lines | Windows
    validation: Lines | Windows
    split: str


def dinosaur_names() -> str:
    """The built-in corpus: genus names of dinosaurs, one per line."""
    return resources.files("rnnx").joinpath("data/dinosaurs.txt").read_text(encoding="utf-8")


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, line ends as newlines.

    Raises
    ------
    ValueError
        If it is empty, or not UTF-8; says where.
    OSError
        If it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}"
        ) from None
    text = text.replace("\r\n", NEWLINE).replace("\r", NEWLINE)
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def make_corpus(name: str, text: str, *, by: str = "auto", length: int = 64, seed: int = 0) -> Corpus:
    """Datasets of a text.

    Parameters
    ----------
    name : str
        For messages and file names.
    text : str
    by : {"auto", "lines", "windows"}
        "lines": every non-empty line is a sequence, a random tenth of them is held out. "windows": the text
        is one sequence, cut into windows, and its last tenth is held out. "auto": lines if there are at
        least 20 of them, none longer than 64 characters and nine of ten not followed by a blank one.
    length : int
        Steps of a window.
    seed : int
        For the choice of lines.

    Raises
    ------
    ValueError
        If the text is too short to hold something out.
    """
    lines = [line for line in text.split(NEWLINE) if line.strip()]
    if by == "auto":
        blank = sum(not line.strip() for line in text.strip(NEWLINE).split(NEWLINE))
        is_list = len(lines) >= 20 and max(map(len, lines)) <= 64 and blank * 10 <= len(lines)
        by = "lines" if is_list else "windows"
    if by == "lines":
        if len(lines) < 2:
            raise ValueError(f"{name} must have at least 2 lines to train on one and hold one out; got {len(lines)}")
        tokenizer = CharTokenizer().fit([NEWLINE, *lines])
        newline = int(tokenizer.encode(NEWLINE)[0])
        order = np.random.default_rng(seed).permutation(len(lines))
        held_out = max(1, len(lines) // 10)
        sequences = tokenizer.texts_to_sequences([lines[i] for i in order])
        split = f"{held_out} of {len(lines)} lines held out at random"
        train, validation = Lines(sequences[held_out:], newline), Lines(sequences[:held_out], newline)
        return Corpus(name, by, tokenizer, train, validation, split)
    if by != "windows":
        raise ValueError(f"`by` must be 'auto', 'lines' or 'windows'; got {by!r}")
    if len(text) < 20:
        raise ValueError(f"{name} must have at least 20 characters; got {len(text)}")
    tokenizer = CharTokenizer().fit(text)
    indices = tokenizer.encode(text)
    cut = len(indices) - max(2, len(indices) // 10)
    split = f"last {len(indices) - cut} of {len(indices)} characters held out"
    return Corpus(name, by, tokenizer, Windows(indices[:cut], length), Windows(indices[cut:], length), split)
