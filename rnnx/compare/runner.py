"""Make the task, run the sides one after the other, collect what they found."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

import rnnx
from rnnx.compare.exchange import Request, Result, Settings
from rnnx.compare.report import Report
from rnnx.data import CORPORA, CharTokenizer, read_text
from rnnx.models import CharModel

# Peer -> (modules it needs, how to get them, its sides). A side: label -> (module in this package, way).
_RNNX_SIDE = {"rnnx": ("rnnx_side", "")}
PEERS: dict[str, tuple[tuple[str, ...], str, dict[str, tuple[str, str]]]] = {
    "keras": (
        ("tensorflow", "keras"),
        "pip install 'rnnx[keras]'",
        {"Keras fit": ("keras_side", "fit"), "TensorFlow loop": ("keras_side", "loop")},
    ),
    "torch": (("torch",), "pip install torch", {"torch loop": ("torch_side", "")}),
}
CELLS = {"keras": ("rnn", "lstm", "gru", "gru_reset_after"), "torch": ("rnn", "lstm", "gru_reset_after")}
OPTIMIZERS = ("sgd", "adam")
# Quiet, on the CPU, and Keras on TensorFlow whatever its configuration file says.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB")  # what the libraries of one side or another look at
_LINES = 12  # of a failing side's last words


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
    """Train the same character model by rnnx and by a peer: same initial weights, same batches, same rule.

    The model has a one-hot input, recurrent layers and a dense layer; the loss is the mean cross-entropy per
    character. With "keras" there are three sides: rnnx, Keras's ``model.fit``, and a TensorFlow loop with
    GradientTape under ``tf.function``; with "torch" two: rnnx, and a loop. Each runs in a process of its own, on the
    CPU, one after the other.

    Parameters
    ----------
    peer : {"keras", "torch"}
    indices : array of int, shape (n,), optional
        What to read, as indices of characters. The batches are windows at random places of it.
    vocab_size : int, optional
        Number of characters, at least 2; default: the largest index plus 1.
    dataset : str
        Without `indices` and `text`: a built-in text, one of ``rnnx.data.CORPORA``.
    text : path, optional
        Without `indices`: a file, UTF-8.
    hidden_size, num_layers : int
    cell : {"lstm", "gru", "gru_reset_after", "rnn"}
        torch has no "gru", the one that resets before the product.
    batch_size, seq_length : int
        Windows of a batch, and characters of a window.
    steps : int, >= 2
        Updates.
    seed : int
        Of the initial weights and the windows.
    optimizer : {"sgd", "adam"}
        Adam with betas 0.9 and 0.999, epsilon 1e-8 as in algorithm 1 of its paper, on all sides.
    learning_rate : float
    dtype : {"float32", "float64"}
    threads : int, optional
        Threads of each side; default: what each takes by itself.
    output : path, optional
        A folder, made if needed, for report.txt, report.json, losses.csv and comparison.png.
    progress : callable, optional
        Called with the label of each side before it starts.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        For an argument that does not fit.
    ModuleNotFoundError
        If the peer, or matplotlib for `output`, is not installed.
    RuntimeError
        If a side fails; the message ends with its last words.
    OSError
        If `output` cannot be written.
    """
    if peer not in PEERS:
        raise ValueError(f"`peer` must be one of {sorted(PEERS)}; got {peer!r}")
    read = _read(dataset, text) if indices is None else _check_indices(indices)
    settings = Settings(
        vocab_size=int(read.max()) + 1 if vocab_size is None else _plain(vocab_size),
        hidden_size=_plain(hidden_size),
        num_layers=_plain(num_layers),
        cell=cell,
        batch_size=_plain(batch_size),
        seq_length=_plain(seq_length),
        steps=_plain(steps),
        seed=_plain(seed),
        optimizer=optimizer,
        learning_rate=_plain(learning_rate),
        dtype=dtype,
        threads=_plain(threads),
    )
    _check(peer, read, settings)
    modules, install, sides = PEERS[peer]
    _check_installed(modules, f"the comparison with {peer}", install)
    if output is not None:
        _check_installed(("matplotlib",), "the picture of a comparison", "pip install 'rnnx[lab]'")
        Path(output).mkdir(parents=True, exist_ok=True)
    request = make_request(read, settings)
    report = Report(peer, settings, _run_sides({**_RNNX_SIDE, **sides}, request, progress))
    if output is not None:
        report.save(output)
    return report


def _plain(value: Any) -> Any:
    """Python's own number for one of NumPy, which JSON does not know."""
    return value.item() if isinstance(value, np.generic) else value


def _read(dataset: str, text: str | Path | None) -> np.ndarray:
    """A text as indices of its own characters."""
    if text is None and dataset not in CORPORA:
        raise ValueError(f"`dataset` must be one of {list(CORPORA)}; got {dataset!r}")
    words = CORPORA[dataset]() if text is None else read_text(text)
    return CharTokenizer(None).fit(words).encode(words)


def _check_indices(indices: Any) -> np.ndarray:
    text = np.asarray(indices)
    if text.ndim != 1 or not np.issubdtype(text.dtype, np.integer):
        raise TypeError(f"`indices` must be integers of shape (n,); got {text.dtype} of shape {text.shape}")
    if text.size == 0 or text.min() < 0:
        raise ValueError("`indices` must hold indices from 0")
    return text


def _check(peer: str, text: np.ndarray, s: Settings) -> None:
    least = {"vocab_size": 2, "hidden_size": 1, "num_layers": 1, "batch_size": 1, "seq_length": 1, "steps": 2}
    least |= {"seed": 0} | ({"threads": 1} if s.threads is not None else {})
    for name, at_least in least.items():
        value = getattr(s, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
            raise ValueError(f"`{name}` must be an integer of at least {at_least}; got {value!r}")
    if s.vocab_size <= text.max():
        raise ValueError(f"`vocab_size` must be above the largest index, {text.max()}; got {s.vocab_size}")
    if len(text) <= s.seq_length:
        raise ValueError(f"`indices` must have more than seq_length = {s.seq_length} characters; got {len(text)}")
    choices = {"cell": CELLS[peer], "optimizer": OPTIMIZERS, "dtype": ("float32", "float64")}
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            hint = ": torch resets after the product, which is 'gru_reset_after'" if getattr(s, name) == "gru" else ""
            raise ValueError(f"`{name}` must be one of {list(allowed)} with {peer}; got {getattr(s, name)!r}{hint}")
    if not (isinstance(s.learning_rate, Real) and 0 < s.learning_rate < float("inf")):
        raise ValueError(f"`learning_rate` must be a positive number; got {s.learning_rate!r}")


def _check_installed(modules: tuple[str, ...], what: str, install: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"{what} needs {module}: {install}", name=module)


def make_request(text: np.ndarray, s: Settings) -> Request:
    """Initial weights and batches."""
    rng = np.random.default_rng(s.seed)
    name = "gru" if s.cell == "gru_reset_after" else s.cell
    model = CharModel(
        s.vocab_size, s.hidden_size, s.num_layers, cell=name, reset_after=name != s.cell, seed=rng, dtype=s.dtype
    )
    starts = rng.integers(len(text) - s.seq_length, size=(s.steps, s.batch_size, 1))
    places = starts + np.arange(s.seq_length)
    return Request(s, text[places].astype(np.int64), text[places + 1].astype(np.int64), model.parameters)


def _run_sides(
    sides: dict[str, tuple[str, str]], request: Request, progress: Callable[[str], None] | None
) -> dict[str, Result]:
    results = {}
    with tempfile.TemporaryDirectory(prefix="rnnx-compare-") as folder:
        path = Path(folder) / "request.npz"
        request.save(path)
        for number, (label, (module, way)) in enumerate(sides.items()):
            if progress is not None:
                progress(label)
            results[label] = _run_side(label, module, way, path, Path(folder) / f"{number}.npz", request.settings)
    return results


def _run_side(label: str, module: str, way: str, request: Path, result: Path, s: Settings) -> Result:
    """One side in a process of its own."""
    command = [sys.executable, "-P", "-m", f"rnnx.compare.{module}", str(request), str(result), way, repr(time.time())]
    done = subprocess.run(
        command,
        env=_environment(s.threads),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0 or not result.exists():
        how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        words = "\n".join(done.stderr.strip().splitlines()[-_LINES:])
        raise RuntimeError(f"the process of {label} {how}" + (f":\n{words}" if words else ""))
    return Result.load(result)


def _environment(threads: int | None) -> dict[str, str]:
    """What a side's process finds: our rnnx, whatever lies in the present folder (-P keeps that out), and threads."""
    environment = {**os.environ, **_ENVIRONMENT}
    folder = str(Path(rnnx.__file__).resolve().parent.parent)
    if folder != str(Path(sysconfig.get_path("purelib")).resolve()):  # it is found there, after Python's own modules
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = folder + (os.pathsep + before if before else "")
    if threads is not None:
        names = (f"{name}_{'MAXIMUM' if name == 'VECLIB' else 'NUM'}_THREADS" for name in _THREADS)
        environment.update(dict.fromkeys(names, str(threads)))
    return environment
