"""Text from a trained character model."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnnx import _namespace as ns
from rnnx._namespace import Array
from rnnx.models import CharModel
from rnnx.text import NEWLINE, CharTokenizer


def sample(
    model: CharModel,
    parameters: Mapping[str, Array],
    tokenizer: CharTokenizer,
    *,
    start: str = "",
    n: int = 1,
    temperature: float = 1.0,
    max_length: int = 60,
    stop: str | None = NEWLINE,
    seed: int | np.random.Generator | None = None,
) -> list[str]:
    """Draw texts, all at once.

    Parameters
    ----------
    model : CharModel
    parameters : dict of str to array
    tokenizer : CharTokenizer
    start : str
        What every text starts with.
    n : int
        Number of texts.
    temperature : float, >= 0
        Logits are divided by it: below 1 more likely characters are preferred; 0 always takes the likeliest.
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
    if n < 1 or max_length < 1:
        raise ValueError(f"`n` and `max_length` must be at least 1; got {n} and {max_length}")
    if not (temperature >= 0 and np.isfinite(temperature)):
        raise ValueError(f"`temperature` must be a number of at least 0; got {temperature}")
    rng = np.random.default_rng(seed)
    vocabulary = tokenizer.get_vocab()
    # A text begins after a newline; one without any newline begins after itself, or after its first character.
    prompt = NEWLINE + start if NEWLINE in vocabulary else start or vocabulary[0]
    stream = model.stream(parameters, n)
    for index in tokenizer.encode(prompt):
        logits = stream.read(np.full(n, index))
    stop_index = vocabulary.index(stop) if stop in vocabulary else -1
    drawn: list[np.ndarray] = []
    running = np.ones(n, bool)
    while running.any() and len(drawn) < max_length:
        drawn.append(np.where(running, _draw(logits, temperature, rng), stop_index))
        running &= drawn[-1] != stop_index
        if running.any() and len(drawn) < max_length:
            logits = stream.read(np.maximum(drawn[-1], 0))
    return [start + tokenizer.decode(_until(column, stop_index)) for column in np.stack(drawn, axis=1)]


def _draw(logits: Array, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """One index per column of logits (vocab_size, n)."""
    z = ns.to_host(logits).astype(np.float64)
    if temperature == 0:
        return z.argmax(axis=0)
    z = (z - z.max(axis=0)) / temperature
    cumulative = np.cumsum(np.exp(z), axis=0)
    return (cumulative < rng.random(z.shape[1]) * cumulative[-1]).sum(axis=0)


def _until(indices: Sequence[int] | np.ndarray, stop_index: int) -> list[int]:
    values = [int(i) for i in indices]
    return values[: values.index(stop_index)] if stop_index in values else values
