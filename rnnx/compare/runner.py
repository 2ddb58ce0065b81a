"""Make the task, run the sides one after the other, and collect their results."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rnnx._core import checks
from rnnx._core.install import install_command
from rnnx.compare import process, task
from rnnx.compare.records import Request, Result, Settings
from rnnx.compare.report import NAMES, Report
from rnnx.models.layers import MOST_LAYERS
from rnnx.training.finite import check_finite


class Peer(NamedTuple):
    """A library to compare with."""

    modules: tuple[str, ...]  # that must be installed
    install: str  # the command that installs them
    sides: dict[str, str]  # label: module and class of the side


PEERS = {
    "keras": Peer(
        ("tensorflow", "keras"),
        "pip install tensorflow",
        {
            "Keras fit": "keras_side:Fit",
            "TensorFlow loop": "keras_side:Loop",
            "Keras subclass": "keras_side:Subclass",
        },
    ),
    "torch": Peer(("torch",), "pip install torch", {"torch loop": "torch_side:TorchSide"}),
}


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
    reset_after: bool = False,
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
    character. With "keras" there are four sides: rnnx, Keras's ``model.fit``, a TensorFlow loop with GradientTape under
    ``tf.function``, and ``fit`` of a subclass of ``keras.Model`` with an Embedding layer, which also samples a text.
    With "torch" there are two: rnnx and a training loop. The sides run on the CPU, one after the other, in separate
    processes.

    Parameters
    ----------
    peer : {"keras", "torch"}
    indices : array of int, shape (n,), optional
        The text as character indices. The batches are windows at random positions in it.
    vocab_size : int, optional
        Number of characters, at least 2. Default: the largest index plus 1.
    dataset : str
        The name of a text, as for `rnnx.data.find_text`, used if neither `indices` nor `text` is given.
    text : path, optional
        A regular UTF-8 file, instead of `indices` and `dataset`.
    hidden_size, num_layers : int
    cell : {"rnn", "lstm", "gru"}
    reset_after : bool
        With "gru", apply the reset gate after the product. torch has no other GRU.
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
        Folder for the files that `Report.save` writes, created if missing. It must not contain a report.
    progress : callable, optional
        Called with the label of each side before it starts.

    Returns
    -------
    Report

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid, before any process starts.
    ModuleNotFoundError
        If the peer is not installed, or `output` is given and matplotlib is not.
    FloatingPointError
        If a loss is not finite. The message names the side and the step.
    RuntimeError
        If a side fails. The message ends with the last lines of its stderr.
    OSError
        If `text` cannot be read or `output` cannot be written.

    See Also
    --------
    Report, rnnx.convert.to_torch

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.compare import run
    >>> text = np.arange(400) % 5
    >>> report = run("torch", text, hidden_size=8, steps=3)  # doctest: +SKIP
    >>> report.agrees, list(report.sides)  # doctest: +SKIP
    (True, ['rnnx', 'torch loop'])
    """
    checks.choice("peer", peer, PEERS)
    if progress is not None and not callable(progress):
        raise TypeError(f"`progress` must be callable; got {type(progress).__name__}")
    read, vocabulary = task.read(indices, dataset, text)
    settings = Settings(
        vocab_size=checks.integer("vocab_size", int(read.max()) + 1 if vocab_size is None else vocab_size, 2),
        hidden_size=checks.integer("hidden_size", hidden_size),
        num_layers=checks.integer("num_layers", num_layers, most=MOST_LAYERS),
        cell=cell,
        reset_after=checks.flag("reset_after", reset_after),
        batch_size=checks.integer("batch_size", batch_size),
        seq_length=checks.integer("seq_length", seq_length),
        steps=checks.integer("steps", steps, 2),
        seed=checks.integer("seed", seed, 0),
        optimizer=optimizer,
        learning_rate=checks.real("learning_rate", learning_rate, "(0, inf)"),
        dtype=dtype,
        threads=None if threads is None else checks.integer("threads", threads, most=task.MOST_THREADS),
    )
    task.check(peer, read, settings)
    _check_installed(PEERS[peer].modules, f"the comparison with {peer}", PEERS[peer].install)
    if output is not None:
        _check_installed(("matplotlib",), "the comparison figure", install_command("lab"))
    sides = {"rnnx": "rnnx_side:RnnxSide", **PEERS[peer].sides}
    with nullcontext() if output is None else _reserved(Path(output)):
        results = _run_sides(sides, task.make_request(read, settings), progress)
        report = Report(peer, settings, results, vocabulary)
        if output is not None:
            report.save(output)
    return report


def _check_installed(modules: tuple[str, ...], what: str, install: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"{what} needs {module}: {install}", name=module)


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Create the folder and an empty report in it, so that no other comparison writes there; undo it after an error."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if (folder / name).exists():
            raise ValueError(f"`output` must not contain a report; {folder} contains {name}")
    (folder / NAMES[0]).open("x").close()  # exclusively: another comparison may have started at the same time
    try:
        yield
    except BaseException:
        for name in NAMES:
            (folder / name).unlink(missing_ok=True)
        for made in (folder, *folder.parents):
            if made == existing:
                break
            with suppress(OSError):  # somebody else uses it
                made.rmdir()
        raise


def _run_sides(
    sides: dict[str, str], request: Request, progress: Callable[[str], None] | None = None
) -> dict[str, Result]:
    """Run the sides in turn; raise FloatingPointError if a loss is not finite."""
    results = {}
    for label, side in sides.items():
        if progress is not None:
            progress(label)
        threads = request.settings.threads
        result, start_seconds = process.call(f"rnnx.compare.{side}.run", request, label=label, threads=threads)
        for step, loss in enumerate(result.losses.tolist(), 1):
            check_finite(f"the loss of {label} is", loss, step)
        results[label] = replace(result, start_seconds=start_seconds)
    return results
