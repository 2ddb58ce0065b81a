"""Counting characters and checking vocabularies."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rnnx._core.words import shown


def count_characters(texts: str | Iterable[str]) -> Counter[str]:
    """Count the characters of one or more texts.

    See Also
    --------
    CharTokenizer, open_text

    Examples
    --------
    >>> from rnnx.data import CharTokenizer, count_characters
    >>> counts = count_characters(["aab", "abc"])
    >>> counts["a"], CharTokenizer().fit_counts(counts, min_count=2).get_vocab()  # c is too rare
    (3, ['<UNK>', 'a', 'b'])
    """
    if isinstance(texts, bytes | bytearray):
        raise TypeError("`texts` must be a str or an iterable of str; got bytes")
    counts: Counter[str] = Counter()
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise TypeError(
                f"`texts` must be a str or an iterable of str; got an element of type {type(text).__name__}"
            )
        if len(text) < 1024:  # NumPy's call overhead dominates for short texts
            counts.update(text)
        else:
            points, numbers = np.unique(code_points(text), return_counts=True)
            counts.update(dict(zip(map(chr, points.tolist()), numbers.tolist(), strict=True)))
    return counts


def code_points(text: str) -> np.ndarray:
    """Return the code points of a text as an array."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def check_vocabulary(tokens: Any, oov_token: str | None) -> None:
    """Raise unless `tokens` is a list of distinct characters, including `oov_token` if there is one."""
    if not isinstance(tokens, Sequence) or isinstance(tokens, str) or not tokens:
        raise ValueError(f"the vocabulary must be a non-empty list of characters; got {shown(tokens)}")
    for token in tokens:
        if not isinstance(token, str) or (len(token) != 1 and token != oov_token):
            raise ValueError(f"the vocabulary may contain only single characters and `oov_token`; got {shown(token)}")
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise ValueError(f"the vocabulary must not contain duplicates; got {shown(twice)} more than once")
    if oov_token is not None and oov_token not in tokens:
        raise ValueError(f"the vocabulary must contain `oov_token`, {oov_token!r}")
