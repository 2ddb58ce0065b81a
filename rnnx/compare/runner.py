"""Make the task, run the sides one after the other, and collect their results."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import checks
from rnnx.compare import process
from rnnx.compare.records import Request, Result, Settings
from rnnx.compare.report import Report
from rnnx.compare.rnnx_side import make_model
from rnnx.data import CORPORA, CharTokenizer, read_text


class Peer(NamedTuple):
    """A library to compare with."""

    modules: tuple[str, ...]  # that must be installed
    install: str  # the command that installs them
    sides: dict[str, str]  # label: function of this package that runs the side
    cells: tuple[str, ...]


PEERS = {
    "keras": Peer(
        ("tensorflow", "keras"),
        "pip install 'rnnx[keras]'",
        {"Keras fit": "keras_side:fit", "TensorFlow loop": "keras_side:loop"},
        ("rnn", "lstm", "gru", "gru_reset_after"),
    ),
    "torch": Peer(
        ("torch",), "pip install torch", {"torch loop": "torch_side:run"}, ("rnn", "lstm", "gru_reset_after")
    ),
}
OPTIMIZERS = ("sgd", "adam")


def run(
    peer: str,
    indices: Any = None,
    vocab_size: int | None = None,
    *,
    dataset: str = "pydoc",
    text: str | Path | None = None,
    hidden_size: int = 128,
    num_layers: int = 1,
    cell: str = "lstm",
    batch_size: int = 32,
    seq_length: int = 64,
    steps: int = 100,
    seed: int = 0,
    optimizer: str = "adam",
    learning_rate: float = 0.003,
    dtype: str = "float32",
    threads: int | None = None,
    output: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Train the same character model with rnnx and a peer: same initial weights, same batches, same update rule.

    The model has a one-hot input, recurrent layers and a dense layer; the loss is the mean cross-entropy per
    character. With "keras" there are three sides: rnnx, Keras's ``model.fit``, and a TensorFlow loop with
    GradientTape under ``tf.function``. With "torch" there are two: rnnx and a training loop. The sides run on the CPU,
    one after the other, in separate processes.

    Parameters
    ----------
    peer : {"keras", "torch"}
    indices : array of int, shape (n,), optional
        The text as character indices. The batches are windows at random positions in it.
    vocab_size : int, optional
        Number of characters, at least 2. Default: the largest index plus 1.
    dataset : str
        A built-in text, one of ``rnnx.data.CORPORA``, used if neither `indices` nor `text` is given.
    text : path, optional
        A UTF-8 file, used if `indices` is not given.
    hidden_size, num_layers : int
    cell : {"lstm", "gru", "gru_reset_after", "rnn"}
        torch has no "gru", which applies the reset gate before the product.
    batch_size, seq_length : int
        Windows per batch and characters per window.
    steps : int, >= 2
        Number of updates.
    seed : int
        Seed of the initial weights and the windows.
    optimizer : {"sgd", "adam"}
        On all sides, Adam uses betas 0.9 and 0.999 and epsilon 1e-8 as in algorithm 1 of its paper.
    learning_rate : float
    dtype : {"float32", "float64"}
    threads : int, optional
        Threads per side; default: each library's choice.
    output : path, optional
        Folder for report.txt, report.json, losses.csv and comparison.png, created if missing.
    progress : callable, optional
        Called with the label of each side before it starts.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid.
    ModuleNotFoundError
        If the peer is not installed, or `output` is given and matplotlib is not.
    RuntimeError
        If a side fails. The message ends with the last lines of its stderr.
    FloatingPointError
        If a loss is not finite.
    OSError
        If `output` cannot be written.
    """
    if peer not in PEERS:
        raise ValueError(f"`peer` must be one of {sorted(PEERS)}; got {peer!r}")
    read = _read(dataset, text) if indices is None else _check_indices(indices)
    settings = Settings(
        vocab_size=checks.integer("vocab_size", int(read.max()) + 1 if vocab_size is None else vocab_size, 2),
        hidden_size=checks.integer("hidden_size", hidden_size),
        num_layers=checks.integer("num_layers", num_layers),
        cell=cell,
        batch_size=checks.integer("batch_size", batch_size),
        seq_length=checks.integer("seq_length", seq_length),
        steps=checks.integer("steps", steps, 2),
        seed=checks.integer("seed", seed, 0),
        optimizer=optimizer,
        learning_rate=checks.real("learning_rate", learning_rate, "(0, inf)"),
        dtype=dtype,
        threads=None if threads is None else checks.integer("threads", threads),
    )
    _check(peer, read, settings)
    _check_installed(PEERS[peer].modules, f"the comparison with {peer}", PEERS[peer].install)
    if output is not None:
        _check_installed(("matplotlib",), "the comparison figure", "pip install 'rnnx[lab]'")
        Path(output).mkdir(parents=True, exist_ok=True)
    sides = {"rnnx": "rnnx_side:run", **PEERS[peer].sides}
    report = Report(peer, settings, _run_sides(sides, make_request(read, settings), progress))
    if output is not None:
        report.save(output)
    return report


def _read(dataset: str, text: str | Path | None) -> np.ndarray:
    """Return a text as indices in its own vocabulary."""
    if text is None and dataset not in CORPORA:
        raise ValueError(f"`dataset` must be one of {list(CORPORA)}; got {dataset!r}")
    words = CORPORA[dataset]() if text is None else read_text(text)
    return CharTokenizer(None).fit(words).encode(words)


def _check_indices(indices: Any) -> np.ndarray:
    text = np.asarray(indices)
    if text.ndim != 1 or not np.issubdtype(text.dtype, np.integer):
        raise TypeError(f"`indices` must be integers of shape (n,); got {text.dtype} of shape {text.shape}")
    if text.size == 0 or text.min() < 0:
        raise ValueError("`indices` must contain at least one index and none below 0")
    return text


def _check(peer: str, text: np.ndarray, s: Settings) -> None:
    if s.vocab_size <= text.max():
        raise ValueError(f"`vocab_size` must be above the largest index, {text.max()}; got {s.vocab_size}")
    if len(text) <= s.seq_length:
        raise ValueError(f"`indices` must have more than seq_length = {s.seq_length} characters; got {len(text)}")
    choices = {"cell": PEERS[peer].cells, "optimizer": OPTIMIZERS, "dtype": ("float32", "float64")}
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            hint = "; torch's GRU is 'gru_reset_after'" if getattr(s, name) == "gru" else ""
            raise ValueError(f"`{name}` must be one of {list(allowed)} with {peer}; got {getattr(s, name)!r}{hint}")


def _check_installed(modules: tuple[str, ...], what: str, install: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"{what} needs {module}: {install}", name=module)


def make_request(text: np.ndarray, s: Settings) -> Request:
    """Draw initial weights and batches."""
    rng = np.random.default_rng(s.seed)
    model = make_model(s, rng)
    starts = rng.integers(len(text) - s.seq_length, size=(s.steps, s.batch_size, 1))
    places = starts + np.arange(s.seq_length)
    return Request(s, text[places].astype(np.int64), text[places + 1].astype(np.int64), model.parameters)


def _run_sides(
    sides: dict[str, str], request: Request, progress: Callable[[str], None] | None = None
) -> dict[str, Result]:
    def run_side(label: str, function: str) -> Result:
        if progress is not None:
            progress(label)
        target, threads = f"rnnx.compare.{function}", request.settings.threads
        result, start_seconds = process.call(target, request, label=label, threads=threads)
        return replace(result, start_seconds=start_seconds)

    results = {label: run_side(label, function) for label, function in sides.items()}
    for label, side in results.items():
        bad = np.flatnonzero(~np.isfinite(side.losses))
        if bad.size:
            hint = "; a smaller `learning_rate` may help" if bad[0] else ""
            raise FloatingPointError(f"the loss of {label} is {side.losses[bad[0]]} at step {bad[0] + 1}{hint}")
    return results
