"""A character tokenizer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import integer, is_whole
from rnnx._core.files import read_regular, write_atomically
from rnnx._core.words import shown
from rnnx.data.vocabulary import check_vocabulary, code_points, count_characters

NEWLINE = "\n"
FORMAT = "rnnx-char-tokenizer"
VERSION = 1
_MAX_BYTES = 64 << 20  # of a file; all of Unicode takes 15 MiB
_MAX_NAMED = 10  # unknown characters in a message


class CharTokenizer:
    """Converts characters to indices and back.

    Parameters
    ----------
    oov_token : str or None
        Token with index 0 for out-of-vocabulary characters; with None they are an error. A single-character token also
        represents that character.

    Attributes
    ----------
    vocab_size : int
        Number of tokens, including `oov_token`.
    oov_index : int or None
        Index of `oov_token`. Samplers exclude it, because it is not a character.
    index_dtype : dtype
        The smallest unsigned dtype that holds the indices.

    See Also
    --------
    make_corpus, count_characters, rnnx.models.CharModel

    Examples
    --------
    >>> from rnnx.data import CharTokenizer
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
            raise TypeError(f"`oov_token` must be None or a non-empty string; got {shown(oov_token)}")
        self.oov_token = oov_token
        self._set_vocabulary([] if oov_token is None else [oov_token])

    @classmethod
    def from_vocab(cls, tokens: Sequence[str], oov_token: str | None = None) -> "CharTokenizer":
        """Create a tokenizer with a given vocabulary. Raise ValueError if it is not as described.

        Parameters
        ----------
        tokens : sequence of str
            At least one, in index order: distinct characters, including `oov_token` if there is one.
        oov_token : str or None
        """
        tokenizer = cls(oov_token)
        check_vocabulary(tokens, oov_token)
        tokenizer._set_vocabulary(list(tokens))
        return tokenizer

    def _set_vocabulary(self, tokens: list[str]) -> None:
        self._tokens, self.vocab_size = tokens, len(tokens)
        self.oov_index = None if self.oov_token is None else tokens.index(self.oov_token)
        self.index_dtype = np.min_scalar_type(max(len(tokens) - 1, 0))
        known = [(ord(token), i) for i, token in enumerate(tokens) if len(token) == 1]
        # Indexed by code point; the last entry covers all larger ones. -1: unknown, and there is no `oov_token`.
        unknown = -1 if self.oov_index is None else self.oov_index
        self._table = np.full(max(known, default=(0, 0))[0] + 2, unknown, np.int32)
        for point, i in known:
            self._table[point] = i

    def extended(self, texts: str | Iterable[str]) -> "CharTokenizer":
        """Return a tokenizer with the characters of a text that this one lacks after its own, sorted by code point.

        A model is made to fit with `CharModel.extended`. `texts` are those of `fit`.
        """
        more = sorted(set(count_characters(texts)) - set(self._tokens))
        return CharTokenizer.from_vocab([*self._tokens, *more], self.oov_token)

    def get_vocab(self) -> list[str]:
        """Return the tokens in index order."""
        return list(self._tokens)

    def fit(self, texts: str | Iterable[str], *, min_count: int = 1) -> "CharTokenizer":
        """Learn the vocabulary, sorted by code point, replacing the old one; return the tokenizer itself.

        Parameters
        ----------
        texts : str or iterable of str
            Texts, or the chunks of one text; iterated once.
        min_count : int
            Rarer characters are out of vocabulary.

        Raises
        ------
        ValueError
            If there is no character, all are rarer than `min_count`, or there are rare ones but no `oov_token`.
        """
        return self.fit_counts(count_characters(texts), min_count=min_count)

    def fit_counts(self, counts: Mapping[str, int], *, min_count: int = 1) -> "CharTokenizer":
        """Learn the vocabulary from the counts of `count_characters`; see `fit`."""
        min_count = integer("min_count", min_count)
        if not counts:
            raise ValueError("`texts` must contain at least one character")
        if self.oov_token is None and min(counts.values()) < min_count:
            raise ValueError(f"`min_count` = {min_count} requires an `oov_token` to replace rare characters")
        frequent = {character for character, count in counts.items() if count >= min_count} - {self.oov_token}
        if not frequent:
            most = max(counts.values())
            raise ValueError(
                f"`min_count` = {min_count} leaves no character: the most frequent one occurs {most} times"
            )
        self._set_vocabulary(([] if self.oov_token is None else [self.oov_token]) + sorted(frequent))
        return self

    def encode(self, text: str, dtype: Any = np.int64) -> np.ndarray:
        """Convert a text to indices.

        Parameters
        ----------
        text : str
        dtype : dtype
            An integer dtype that holds ``vocab_size - 1``, such as `index_dtype`.

        Returns
        -------
        indices : array of `dtype`, shape (len(text),)

        Raises
        ------
        ValueError, TypeError
            If a character is unknown and there is no `oov_token`, or `dtype` cannot hold the indices.
        """
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a str; got {type(text).__name__}")
        dtype = np.dtype(dtype)
        if dtype.kind not in "iu":
            raise TypeError(f"`dtype` must be an integer dtype; got {dtype}")
        if np.iinfo(dtype).max < self.vocab_size - 1:
            raise ValueError(f"`dtype` must hold vocab_size - 1 = {self.vocab_size - 1}; got {dtype}")
        points = code_points(text)
        indices = self._table[np.minimum(points, len(self._table) - 1)]
        if self.oov_index is None and indices.size and indices.min() < 0:
            self.check_known(text)
        return indices.astype(dtype)

    def check_known(self, characters: Iterable[str]) -> None:
        """Raise ValueError if a character has no index, naming up to ten."""
        unknown = [] if self.oov_token is not None else sorted(set(characters) - set(self._tokens))
        if unknown:
            more = f" and {len(unknown) - _MAX_NAMED} more" if len(unknown) > _MAX_NAMED else ""
            raise ValueError(f"the vocabulary does not contain {', '.join(map(repr, unknown[:_MAX_NAMED]))}{more}")

    def decode(self, indices: Iterable[Any]) -> str:
        """Convert a sequence of indices to text. Raise ValueError if one is not in [0, vocab_size)."""
        places = ns.to_host(indices).tolist() if hasattr(indices, "dtype") else list(indices)
        if not all(map(is_whole, places)):
            wrong = next(i for i in places if not is_whole(i))
            raise TypeError(f"`indices` must hold integers; got {shown(wrong)}")
        if places and not 0 <= min(places) <= max(places) < self.vocab_size:
            wrong = next(i for i in places if not 0 <= i < self.vocab_size)
            raise ValueError(f"`indices` must be in [0, vocab_size) = [0, {self.vocab_size}); got {wrong}")
        return "".join([self._tokens[i] for i in places])

    def texts_to_sequences(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Encode a list of texts."""
        if isinstance(texts, str):
            raise TypeError("`texts` must be a list of str; got str (use `encode` for a single text)")
        return [self.encode(text) for text in texts]

    def sequences_to_texts(self, sequences: Iterable[Iterable[Any]]) -> list[str]:
        """Decode a list of sequences."""
        return [self.decode(sequence) for sequence in sequences]

    def to_dict(self) -> dict[str, Any]:
        """Return the tokenizer as plain values, for JSON and `from_dict`."""
        return {"format": FORMAT, "version": VERSION, "oov_token": self.oov_token, "vocabulary": self.get_vocab()}

    @classmethod
    def from_dict(cls, values: Any) -> "CharTokenizer":
        """Create a tokenizer from the result of `to_dict`. Raise ValueError if it is damaged or from a newer rnnx."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise ValueError("not an rnnx tokenizer")
        try:
            version = integer("version", values.get("version"))
            if version <= VERSION:
                return cls.from_vocab(values["vocabulary"], values["oov_token"])
        except KeyError as error:
            raise ValueError(f"damaged tokenizer: {error} is missing") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"damaged tokenizer: {error}") from None
        raise ValueError(
            f"tokenizer format version {version} requires a newer rnnx; this one supports versions up to {VERSION}"
        )

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to a JSON file, atomically."""
        write_atomically(path, (json.dumps(self.to_dict()) + "\n").encode("ascii"))

    @classmethod
    def load(cls, path: str | Path) -> "CharTokenizer":
        """Read a file written by `save`. Raise ValueError as `from_dict` does, or OSError if it cannot be read."""
        data = read_regular(path, _MAX_BYTES)
        try:
            return cls.from_dict(json.loads(data))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"{path} is not a tokenizer, or is damaged: invalid JSON") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CharTokenizer):
            return NotImplemented
        return self.oov_token == other.oov_token and self._tokens == other._tokens

    __hash__ = None  # type: ignore[assignment]  # `fit` changes it

    def __repr__(self) -> str:
        return f"<CharTokenizer: {self.vocab_size} tokens, oov_token={self.oov_token!r}>"
