"""The task of a comparison: read the text, check the settings, draw initial weights and batches."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.words import shown
from rnnx.compare.records import Request, Settings
from rnnx.compare.rnnx_side import make_model
from rnnx.data import CharTokenizer, encode_file, find_text
from rnnx.data.files import encode

CELLS, OPTIMIZERS, DTYPES = ("rnn", "lstm", "gru"), ("sgd", "adam"), ("float32", "float64")
MOST_THREADS = 1024


def read(indices: Any, dataset: str, text: str | Path | None) -> tuple[np.ndarray, list[str] | None]:
    """Return a text as indices, and its vocabulary unless the caller gave the indices."""
    if indices is None:
        if not isinstance(dataset, str):
            raise TypeError(f"`dataset` must be a str; got {shown(dataset)}")
        found = find_text(dataset) if text is None else _regular_file(text)
        encoded = encode_file(found) if isinstance(found, Path) else encode([found], CharTokenizer(None), fit=True)
        return encoded.indices, encoded.tokenizer.get_vocab()
    if text is not None:
        raise ValueError("`indices` and `text` cannot be combined")
    array = np.asarray(indices)
    if array.ndim != 1 or not ns.is_integer(np, array):
        raise TypeError(f"`indices` must be integers of shape (n,); got dtype {array.dtype} and shape {array.shape}")
    if array.size == 0 or array.min() < 0:
        raise ValueError(f"`indices` must be a non-empty array of non-negative integers; got {shown(indices)}")
    return array, None


def _regular_file(text: str | Path) -> Path:
    if not isinstance(text, str | os.PathLike) or text == "":
        raise (ValueError if text == "" else TypeError)(f"`text` must be the path of a file; got {shown(text)}")
    path = Path(text)
    if path.exists() and not path.is_file():
        raise ValueError(f"`text` must be a regular file; {path} is not")
    return path


def check(peer: str, text: np.ndarray, s: Settings) -> None:
    """Raise unless the settings suit the peer, the text and this machine."""
    if s.vocab_size <= text.max():
        raise ValueError(f"`vocab_size` must be greater than the largest index, {text.max()}; got {s.vocab_size}")
    if len(text) <= s.seq_length:
        raise ValueError(f"`seq_length` must be less than the length of the text, {len(text)}; got {s.seq_length}")
    for name, allowed in {"cell": CELLS, "optimizer": OPTIMIZERS, "dtype": DTYPES}.items():
        checks.choice(name, getattr(s, name), allowed)
    if s.cell_name == "gru" and peer == "torch":  # `cell_name` checks `reset_after`
        raise ValueError("`reset_after` must be True for `cell` = 'gru' with torch, which has no other GRU; got False")
    _check_memory(s)


def _check_memory(s: Settings) -> None:
    """Raise if a side needs more memory than the machine has, by a low estimate."""
    number, n, characters = np.dtype(s.dtype).itemsize, s.hidden_size, s.batch_size * s.seq_length
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[s.cell]
    weights = gates * n * (s.vocab_size + n + (s.num_layers - 1) * 2 * n) + s.vocab_size * n
    needs = {
        ("hidden_size", "num_layers", "vocab_size"): 2 * number * weights,  # with their gradients
        ("batch_size", "seq_length", "vocab_size"): number * characters * (s.vocab_size + n * s.num_layers),
        ("steps", "batch_size", "seq_length"): 16 * s.steps * characters,  # int64 inputs and targets
    }
    for names, need in needs.items():
        checks.check_memory(", ".join(f"`{name}` = {getattr(s, name)}" for name in names), need)


def make_request(text: np.ndarray, s: Settings) -> Request:
    """Draw initial weights and batches."""
    rng = np.random.default_rng(s.seed)
    model = make_model(s, rng)
    starts = rng.integers(len(text) - s.seq_length, size=(s.steps, s.batch_size, 1))
    places = starts + np.arange(s.seq_length)
    return Request(s, text[places].astype(np.int64), text[places + 1].astype(np.int64), model.parameters)
