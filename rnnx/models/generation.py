"""Sampling text from a character model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_generator, check_methods, integer, real
from rnnx._core.randomness import RNG, generator, takes_rng
from rnnx._core.words import shown
from rnnx.data import NEWLINE, CharTokenizer, pad
from rnnx.models.decoding import MAX_LENGTH


@takes_rng
def sample(
    model: Any,
    tokenizer: CharTokenizer,
    *,
    start: str | Sequence[str] = "",
    n: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    max_length: int = 60,
    stop: str | None = NEWLINE,
    rng: RNG = None,
) -> list[str]:
    r"""Sample several texts in parallel.

    Parameters
    ----------
    model : CharModel
        Or an object with an equivalent `stream` method.
    tokenizer : CharTokenizer
    start : str or sequence of str
        Prompt for all texts, or one for each of the `n` texts.
    n : int
        Number of texts.
    temperature : float, >= 0
        Divides the logits. Values below 1 favor likely characters; 0 always takes the most likely one.
    top_k : int, optional
        Sample only from this many of the most likely characters.
    top_p : float, 0 < top_p <= 1, optional
        Sample only from the smallest set of characters with this total probability, after the temperature
        (A. Holtzman et al., arXiv:1904.09751).
    max_length : int, 1 to 1,000,000
        Maximum number of characters after `start`.
    stop : str or None
        A text ends before this character, by default the newline; with None, only at `max_length`, and newlines are
        part of the text.
    rng : int, numpy.random.Generator or other seed, optional
        See `numpy.random.default_rng`; also under its older name, `seed`.

    Returns
    -------
    list of str
        Including `start`, without `stop`; only `start` if `stop` is sampled first.

    Raises
    ------
    ValueError
        If an argument is out of range, or the vocabulary lacks a character of `start`.

    See Also
    --------
    draw, CharModel, CharStream

    Examples
    --------
    >>> from rnnx.data import CharTokenizer
    >>> from rnnx.models import CharModel, sample
    >>> tokenizer = CharTokenizer(oov_token=None).fit("abc\n")
    >>> model = CharModel(tokenizer.vocab_size, hidden_size=8, rng=0)
    >>> texts = sample(model, tokenizer, start="ab", n=3, max_length=5, stop=None, rng=0)
    >>> [len(text) for text in texts], texts[0][:2]
    ([7, 7, 7], 'ab')
    """
    check_methods("model", model, "a CharModel, or have its `stream` method", "stream")
    check_methods("tokenizer", tokenizer, "a CharTokenizer", "vocab_size", "get_vocab", "encode", "decode")
    n, max_length = integer("n", n, 1, MAX_LENGTH), integer("max_length", max_length, 1, MAX_LENGTH)
    starts = [start] * n if isinstance(start, str) else list(start)
    if len(starts) != n:
        raise ValueError(f"`start` must be one text or a sequence of n = {n} texts; got {len(starts)} texts")
    if stop is not None and len(stop) != 1:
        raise ValueError(f"`stop` must be one character; got {shown(stop)}")
    real("temperature", temperature, "[0, inf)")
    if top_k is not None:
        integer("top_k", top_k)
    if top_p is not None:
        real("top_p", top_p, "(0, 1]")
    outputs = getattr(model, "vocab_size", tokenizer.vocab_size)
    if outputs != tokenizer.vocab_size:
        raise ValueError(f"`tokenizer` must have vocab_size = {outputs}, like `model`; got {tokenizer.vocab_size}")
    random = generator("rng", rng)
    vocabulary, never = tokenizer.get_vocab(), tokenizer.oov_index
    prompts, lengths = _prompts(tokenizer, starts)
    texts: list[list[str]] = [[] for _ in starts]
    running = np.ones(n, bool)
    reader, indices = model.stream(n), prompts[:, 0]
    for t in range(1, prompts.shape[1] + max_length):
        logits = reader.read(indices)
        reading = t < lengths  # the next character is still the prompt's
        if not reading.all():
            indices = draw(logits, random, temperature, top_k, top_p, never)
        for j in np.flatnonzero(running & ~reading):
            character = vocabulary[indices[j]]
            if character == stop:
                running[j] = False
            else:
                texts[j].append(character)
                running[j] = len(texts[j]) < max_length
        if not running.any():
            break
        indices = np.where(reading, prompts[:, min(t, prompts.shape[1] - 1)], indices)
    return [begin + "".join(characters) for begin, characters in zip(starts, texts, strict=True)]


@np.errstate(under="ignore")
def draw(
    logits: Array,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    never: int | None = None,
) -> np.ndarray:
    """Sample one index per column, (n,), except for the index `never`.

    Parameters
    ----------
    logits : array, shape (vocab_size, n)
    rng : numpy.random.Generator
        Draws one number per column, or none at temperature 0.
    temperature, top_k, top_p
        As for `sample`.

    See Also
    --------
    sample

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import draw
    >>> logits = np.log(np.array([[0.7], [0.2], [0.1]]))  # (vocab_size, n)
    >>> def frequencies(**options):
    ...     found = draw(np.tile(logits, 10_000), np.random.default_rng(0), **options)
    ...     return (np.bincount(found, minlength=3) / found.size).round(1).tolist()
    >>> frequencies(), frequencies(temperature=0.0), frequencies(top_k=2)
    ([0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.8, 0.2, 0.0])
    """
    check_generator("rng", rng)
    z = np.array(ns.to_host(logits), np.float64)
    if never is not None:
        z[never] = -np.inf
    if temperature == 0:
        return z.argmax(axis=0)
    with np.errstate(over="ignore"):  # with a tiny temperature, minus infinity is correct
        z = (z - z.max(axis=0)) / temperature
    order = np.argsort(-z, axis=0, kind="stable")  # most likely first
    weights = np.exp(np.take_along_axis(z, order, axis=0))
    if top_k is not None:
        weights[top_k:] = 0
    cumulative = np.cumsum(weights, axis=0)
    if top_p is not None:  # keep a character if those before it have less than top_p
        weights[1:][cumulative[:-1] >= top_p * cumulative[-1]] = 0
        cumulative = np.cumsum(weights, axis=0)
    places = (cumulative <= rng.random(z.shape[1]) * cumulative[-1]).sum(axis=0)
    return np.take_along_axis(order, places[None, :], axis=0)[0]


def _prompts(tokenizer: CharTokenizer, starts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices that the model reads first, (n, L), and the length of each row.

    A text begins after a newline or, if the vocabulary has none, with its own first character or the vocabulary's.
    """
    vocabulary = tokenizer.get_vocab()
    first = NEWLINE if NEWLINE in vocabulary else ""
    known = [token for i, token in enumerate(vocabulary) if i != tokenizer.oov_index]
    if not known:
        raise ValueError("the vocabulary of `tokenizer` must contain a character to start with")
    return pad([tokenizer.encode(first + start or known[0]) for start in starts])
