"""Text from a trained character model, drawn character by character."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer, real
from rnnx.data import NEWLINE, CharTokenizer, pad


class Reader(Protocol):
    """n texts that are read character by character: `rnnx.models.CharStream`."""

    def read(self, indices: np.ndarray) -> Array:
        """The next character of every text, (n,), to logits (vocab_size, n)."""


class Readable(Protocol):
    """A model that a text can be drawn from: `rnnx.models.CharModel`."""

    def stream(self, m: int) -> Reader:
        """Read m texts from their beginning on."""


def sample(
    model: Readable,
    tokenizer: CharTokenizer,
    *,
    start: str | Sequence[str] = "",
    n: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    max_length: int = 60,
    stop: str | None = NEWLINE,
    seed: int | np.random.Generator | None = None,
) -> list[str]:
    """Draw texts, all at once.

    Parameters
    ----------
    model : CharModel
        Or anything with its `stream`.
    tokenizer : CharTokenizer
    start : str or sequence of str
        The prompt: what every text, or each of the `n` texts, starts with.
    n : int
        Number of texts.
    temperature : float, >= 0
        Logits are divided by it: below 1 more likely characters are preferred; 0 always takes the likeliest.
    top_k : int, optional
        Draw only from so many likeliest characters.
    top_p : float, 0 < top_p <= 1, optional
        Draw only from the fewest characters that have this probability together, after the temperature
        (A. Holtzman et al., arXiv:1904.09751).
    max_length : int
        Characters to draw at most, beside `start`.
    stop : str or None
        A text ends before this character; None: it ends by its length only.
    seed : int or numpy.random.Generator, optional

    Returns
    -------
    list of str
        With `start`, without `stop`.

    Raises
    ------
    ValueError
        For an argument out of range, or characters in `start` that the vocabulary does not hold.
    """
    starts = [start] * int(n) if isinstance(start, str) else list(start)
    _check(n, starts, temperature, top_k, top_p, max_length, stop)
    outputs = getattr(model, "vocab_size", tokenizer.vocab_size)
    if outputs != tokenizer.vocab_size:
        raise ValueError(f"the model has {outputs} characters, the tokenizer {tokenizer.vocab_size}")
    rng = np.random.default_rng(seed)
    vocabulary, never = tokenizer.get_vocab(), tokenizer.oov_index
    prompts, lengths = _prompts(tokenizer, starts)
    texts: list[list[str]] = [[] for _ in starts]
    running = np.ones(n, bool)
    reader, indices = model.stream(n), prompts[:, 0]
    for t in range(1, prompts.shape[1] + max_length):
        logits = reader.read(indices)
        reading = t < lengths  # the next character is still the prompt's
        if not reading.all():
            indices = draw(logits, rng, temperature, top_k, top_p, never)
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


def draw(
    logits: Array,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    never: int | None = None,
) -> np.ndarray:
    """One index per column.

    Parameters
    ----------
    logits : array, shape (vocab_size, n)
    rng : numpy.random.Generator
        One number is drawn for each column; none for temperature 0.
    temperature, top_k, top_p
        As for `sample`.
    never : int, optional
        An index that is not drawn.

    Returns
    -------
    array of int, shape (n,)
    """
    z = np.array(ns.to_host(logits), np.float64)
    if never is not None:
        z[never] = -np.inf
    if temperature == 0:
        return z.argmax(axis=0)
    with np.errstate(over="ignore"):  # of a tiny temperature: minus infinity is right
        z = (z - z.max(axis=0)) / temperature
    order = np.argsort(-z, axis=0, kind="stable")  # likeliest first
    weights = np.exp(np.take_along_axis(z, order, axis=0))
    if top_k is not None:
        weights[top_k:] = 0
    cumulative = np.cumsum(weights, axis=0)
    if top_p is not None:  # a character stays if those before it have less than top_p
        weights[1:][cumulative[:-1] >= top_p * cumulative[-1]] = 0
        cumulative = np.cumsum(weights, axis=0)
    places = (cumulative <= rng.random(z.shape[1]) * cumulative[-1]).sum(axis=0)
    return np.take_along_axis(order, places[None, :], axis=0)[0]


def _prompts(tokenizer: CharTokenizer, starts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What the texts begin with, (n, L), and how much of each row counts.

    A text begins after a newline; of a vocabulary without any newline, after its own first character, or after the
    first of the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    first = NEWLINE if NEWLINE in vocabulary else ""
    known = [token for i, token in enumerate(vocabulary) if i != tokenizer.oov_index]
    if not known:
        raise ValueError("the vocabulary has no character to begin with")
    return pad([tokenizer.encode(first + start or known[0]) for start in starts])


def _check(
    n: Any, starts: list[str], temperature: float, top_k: Any, top_p: Any, max_length: Any, stop: str | None
) -> None:
    integer("n", n)
    integer("max_length", max_length)
    if len(starts) != n:
        raise ValueError(f"`start` must be one text, or one for each of the {n} texts; got {len(starts)}")
    real("temperature", temperature, "[0, inf)")
    if top_k is not None:
        integer("top_k", top_k)
    if top_p is not None:
        real("top_p", top_p, "(0, 1]")
    if stop is not None and len(stop) != 1:
        raise ValueError(f"`stop` must be one character; got {stop!r}")
