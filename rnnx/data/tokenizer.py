"""Characters to indices and back."""

import json
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core.checks import integer
from rnnx._core.files import write_atomically

NEWLINE = "\n"
FORMAT = "rnnx-char-tokenizer"
VERSION = 1
_NAMED = 10  # unknown characters in a message


class CharTokenizer:
    """Characters to indices and back.

    Parameters
    ----------
    oov_token : str or None
        A token for all characters that `fit` has not seen (out of vocabulary); it has index 0. Without it they
        are an error. If it is a single character, that character stands for itself as well.

    Examples
    --------
    >>> from rnnx.data.tokenizer import CharTokenizer
    >>> tokenizer = CharTokenizer().fit("hello")
    >>> tokenizer.get_vocab()
    ['<UNK>', 'e', 'h', 'l', 'o']
    >>> tokenizer.encode("hole!").tolist()
    [2, 4, 3, 1, 0]
    >>> tokenizer.decode([2, 4, 3, 1, 0])
    'hole<UNK>'
    """

    def __init__(self, oov_token: str | None = "<UNK>") -> None:
        if oov_token is not None and (not isinstance(oov_token, str) or not oov_token):
            raise TypeError(f"`oov_token` must be None or a string that is not empty; got {oov_token!r}")
        self.oov_token = oov_token
        self._set_vocabulary([] if oov_token is None else [oov_token])

    @classmethod
    def from_vocab(cls, tokens: Sequence[str], oov_token: str | None = None) -> "CharTokenizer":
        """The tokenizer of a known vocabulary, in its order.

        Parameters
        ----------
        tokens : sequence of str
            Characters, all different, and `oov_token` among them if there is one.
        oov_token : str or None

        Raises
        ------
        ValueError
            If there is no token, one comes twice, is no single character, or `oov_token` is not there.
        """
        tokenizer = cls(oov_token)
        _check_vocabulary(tokens, oov_token)
        tokenizer._set_vocabulary(list(tokens))
        return tokenizer

    def _set_vocabulary(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._oov_index = None if self.oov_token is None else tokens.index(self.oov_token)
        known = [(ord(token), i) for i, token in enumerate(tokens) if len(token) == 1]
        # By code point; the last entry is for all that lie beyond. -1: unknown, and no token for that.
        unknown = -1 if self._oov_index is None else self._oov_index
        self._table = np.full(max(known, default=(0, 0))[0] + 2, unknown, np.int32)
        for point, i in known:
            self._table[point] = i

    @property
    def vocab_size(self) -> int:
        """Number of tokens, that for unknown characters included."""
        return len(self._tokens)

    @property
    def oov_index(self) -> int | None:
        """Index of `oov_token`; None without one. A sampler leaves it out: it stands for no character."""
        return self._oov_index

    @property
    def index_dtype(self) -> np.dtype:
        """The smallest unsigned dtype that holds every index."""
        return np.min_scalar_type(max(self.vocab_size - 1, 0))

    def get_vocab(self) -> list[str]:
        """Tokens in the order of their indices."""
        return list(self._tokens)

    def fit(self, texts: str | Iterable[str], *, min_count: int = 1) -> "CharTokenizer":
        """Learn the vocabulary, in the order of code points; what was there before is forgotten.

        Parameters
        ----------
        texts : str or iterable of str
            Also pieces of one text, read once.
        min_count : int
            Characters that come less often are out of vocabulary.

        Returns
        -------
        self : CharTokenizer

        Raises
        ------
        ValueError
            If there is no character, or some are rare and there is no `oov_token`.
        """
        return self.fit_counts(count_characters(texts), min_count=min_count)

    def fit_counts(self, counts: Mapping[str, int], *, min_count: int = 1) -> "CharTokenizer":
        """`fit` for a text whose characters have been counted."""
        min_count = integer("min_count", min_count)
        if not counts:
            raise ValueError("there is no text to learn a vocabulary from")
        if self.oov_token is None and min(counts.values()) < min_count:
            raise ValueError(f"`min_count` of {min_count} needs an `oov_token`, which stands for the rare characters")
        frequent = {character for character, count in counts.items() if count >= min_count} - {self.oov_token}
        self._set_vocabulary(([] if self.oov_token is None else [self.oov_token]) + sorted(frequent))
        return self

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """Indices of the characters of one text.

        Parameters
        ----------
        text : str
        dtype : dtype
            An integer dtype that holds ``vocab_size - 1``, as `index_dtype` does.

        Returns
        -------
        indices : array of `dtype`, shape (len(text),)

        Raises
        ------
        ValueError
            For a character that is not in the vocabulary, if there is no `oov_token`; names the first ten.
            For a dtype in which indices would wrap around.
        TypeError
            For a dtype that is not of integers.
        """
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a str; got {type(text).__name__}")
        dtype = np.dtype(dtype)
        if dtype.kind not in "iu":
            raise TypeError(f"`dtype` must be one of integers; got {dtype}")
        if np.iinfo(dtype).max < self.vocab_size - 1:
            raise ValueError(f"`dtype` must hold vocab_size - 1 = {self.vocab_size - 1}; got {dtype}")
        points = _code_points(text)
        indices = self._table[np.minimum(points, len(self._table) - 1)]
        if self._oov_index is None and indices.size and indices.min() < 0:
            self.check_known(text)
        return indices.astype(dtype)

    def check_known(self, characters: Iterable[str]) -> None:
        """Raise ValueError unless every character has an index; names the first ten that have none."""
        unknown = [] if self.oov_token is not None else sorted(set(characters) - set(self._tokens))
        if unknown:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            raise ValueError(f"the vocabulary does not hold {', '.join(map(repr, unknown[:_NAMED]))}{more}")

    def decode(self, indices: Iterable[Any]) -> str:
        """The text of a sequence of indices.

        Raises
        ------
        ValueError
            For an index outside of the vocabulary.
        """
        places = [operator.index(i) for i in (indices.tolist() if isinstance(indices, np.ndarray) else indices)]
        if places and not (min(places) >= 0 and max(places) < self.vocab_size):
            wrong = next(i for i in places if not 0 <= i < self.vocab_size)
            raise ValueError(f"`indices` must be from 0 to vocab_size - 1 = {self.vocab_size - 1}; got {wrong}")
        return "".join([self._tokens[i] for i in places])

    def texts_to_sequences(self, texts: Iterable[str]) -> list[np.ndarray]:
        """`encode` for every text."""
        if isinstance(texts, str):
            raise TypeError("`texts` must be a list of str; got a str, for which there is `encode`")
        return [self.encode(text) for text in texts]

    def sequences_to_texts(self, sequences: Iterable[Iterable[Any]]) -> list[str]:
        """`decode` for every sequence."""
        return [self.decode(sequence) for sequence in sequences]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `from_dict` takes them."""
        return {"format": FORMAT, "version": VERSION, "oov_token": self.oov_token, "vocabulary": self.get_vocab()}

    @classmethod
    def from_dict(cls, values: Any) -> "CharTokenizer":
        """The tokenizer of what `to_dict` gave.

        Raises
        ------
        ValueError
            If the values are not a tokenizer's, come from a newer version, or contradict each other.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError("it is not a tokenizer of rnnx")
        version = values.get("version")
        if type(version) is not int or version < 1:
            raise ValueError(f"the tokenizer is damaged: its version is {version!r}")
        if version > VERSION:
            raise ValueError(
                f"the tokenizer has format version {version}; this rnnx reads up to {VERSION}: a newer rnnx may read it"
            )
        if "vocabulary" not in values or "oov_token" not in values:
            raise ValueError("the tokenizer is damaged: it must hold 'vocabulary' and 'oov_token'")
        try:
            return cls.from_vocab(values["vocabulary"], values["oov_token"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"the tokenizer is damaged: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write it as JSON. The file at `path` is either the old one or, whole, the new one.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        write_atomically(path, (json.dumps(self.to_dict()) + "\n").encode("ascii"))

    @classmethod
    def load(cls, path: str | Path) -> "CharTokenizer":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is truncated, something else, of a newer version, or contradicts itself.
        OSError
            If it cannot be read.
        """
        data = Path(path).read_bytes()
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(f"{path} is not a tokenizer file, or is damaged: it is not JSON") from None
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CharTokenizer):
            return NotImplemented
        return self.oov_token == other.oov_token and self._tokens == other._tokens

    __hash__ = None  # type: ignore[assignment]  # `fit` changes it

    def __repr__(self) -> str:
        return f"<CharTokenizer: {self.vocab_size} tokens, oov_token={self.oov_token!r}>"


def count_characters(texts: str | Iterable[str]) -> Counter[str]:
    """How often every character comes in a text, or in all of several."""
    if isinstance(texts, bytes | bytearray):
        raise TypeError("`texts` must be a str or an iterable of str; got bytes")
    counts: Counter[str] = Counter()
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise TypeError(f"`texts` must hold str; got {type(text).__name__}")
        if len(text) < 1024:  # where NumPy's calls would cost more than they save
            counts.update(text)
        else:
            points, numbers = np.unique(_code_points(text), return_counts=True)
            counts.update(dict(zip(map(chr, points.tolist()), numbers.tolist(), strict=True)))
    return counts


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _check_vocabulary(tokens: Any, oov_token: str | None) -> None:
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not tokens:
        raise ValueError("the vocabulary must be a list of characters that is not empty")
    for token in tokens:
        if not isinstance(token, str) or (len(token) != 1 and token != oov_token):
            raise ValueError(f"the vocabulary must hold single characters, or `oov_token`; got {token!r}")
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise ValueError(f"the vocabulary must hold different characters; {twice!r} is there twice")
    if oov_token is not None and oov_token not in tokens:
        raise ValueError(f"the vocabulary must hold `oov_token`, {oov_token!r}")
