"""Step-by-step decoding. Dimensions: m examples, T_x source steps, T_y target steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.one_hot import one_hot

MAX_LENGTH = 1_000_000  # of predicted and sampled sequences: a model may never predict their end
_LARGE = 1000  # taking columns of an identity matrix is faster, but the matrix has vocab_size^2 elements


def one_hot_columns(vocab_size: int, like: Array) -> Callable[[np.ndarray], Array]:
    """Return a function from indices (m,) to columns (vocab_size, m) in the library, device and dtype of `like`."""
    xp, device = ns.common_namespace({"like": like})
    if vocab_size > _LARGE:
        dtype = "float64" if like.dtype == xp.float64 else "float32"
        return lambda indices: one_hot(xp.asarray(indices, device=device), vocab_size, dtype)
    identity = xp.eye(vocab_size, dtype=like.dtype, device=device)
    return lambda indices: ns.take(xp, identity, xp.asarray(indices, device=device), axis=1)


class Prediction(NamedTuple):
    """Target sequences predicted by a model.

    Attributes
    ----------
    indices : numpy.ndarray of int, shape (m, T_y)
        Padded with the end token.
    lengths : numpy.ndarray of int, shape (m,)
        Steps before the end token, or T_y if the model never predicted it.
    weights : array, shape (m, T_y, T_x), or None
        Attention weights, in the library of the parameters; zero after the step that predicted the end token.

    See Also
    --------
    Seq2Seq, rnnx.plots.attention_map

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Seq2Seq
    >>> model = Seq2Seq(8, 5, hidden_size=6, rng=0)
    >>> indices, lengths, weights = model.predict(np.array([[3, 1, 2, 7]]), max_length=3)
    >>> weights.shape == (1, indices.shape[1], 4)  # (m, T_y, T_x)
    True
    >>> bool(np.allclose(weights[0, 0].sum(), 1))
    True
    """

    indices: np.ndarray
    lengths: np.ndarray
    weights: Array | None


def joined(xp: Any, parts: Sequence[Prediction], end_token: int) -> Prediction:
    """Join the predictions of several passes, padded to the longest one with the end token and with zero weights."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.indices.shape[1] for part in parts)
    indices = np.full((sum(map(len, (part.indices for part in parts))), longest), end_token)
    weights, first = [], 0
    for part in parts:
        m, n_steps = part.indices.shape
        indices[first : first + m, :n_steps] = part.indices
        first += m
        if part.weights is not None:
            shape, like = (m, longest - n_steps, part.weights.shape[2]), part.weights
            padding = xp.zeros(shape, dtype=like.dtype, device=ns.device(like))
            weights.append(xp.concat([like, padding], axis=1))
    return Prediction(
        indices, np.concatenate([part.lengths for part in parts]), xp.concat(weights, axis=0) if weights else None
    )


def decode(model: Any, source: Array, source_lengths: Any, max_length: int) -> Prediction:
    """Decode greedily with a `Seq2Seq` model; see `Seq2Seq.predict`."""
    xp, (m, n_source) = model.xp, (int(size) for size in source.shape)
    if m == 0:
        empty = None if model.attention is None else xp.zeros((0, 0, n_source), dtype=model.dtype, device=model.device)
        return Prediction(np.zeros((0, 0), np.int64), np.zeros(0, np.int64), empty)
    p = model.parameters
    ends = model.ends(source_lengths)
    encoded, states, _, _ = model.network.encode(p, source, ends)
    decoder, columns = model.decoder.stream(p, m, states), one_hot_columns(model.target_vocab_size, p["Wy"])
    attend = None if model.attention is None else model.attention.stream(p, encoded, lengths=ends)
    written, weights = [np.full(m, model.end_token)], []
    running = np.ones(m, bool)
    while running.any() and len(written) <= max_length:
        out = decoder.step(columns(written[-1]))
        if attend is not None:
            out, row = attend(out)
            mask = xp.astype(xp.asarray(running, device=model.device), model.dtype)
            weights.append(row * mask[:, None])
        best = ns.to_host(xp.argmax(model.head.forward(p, out), axis=0))
        written.append(np.where(running, best, model.end_token))
        running = running & (best != model.end_token)
    indices = np.stack(written[1:], axis=1)
    lengths = np.sum(indices != model.end_token, axis=1)
    return Prediction(indices, lengths, xp.stack(weights, axis=1) if weights else None)
