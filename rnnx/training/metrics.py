"""The metrics of a run as JSON lines and CSV, with one line per step and evaluation."""

import csv
import io
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnnx._core.checks import integer, listed, real
from rnnx._core.files import read_regular, write_atomically
from rnnx.training.progress import Progress

_MAX_BYTES = 1 << 30
_MOST_WAITING = 40  # records that are not written yet
_OPTIONAL = ("smooth_loss", "validation_loss")  # also columns that were added after rnnx 0.1
COLUMNS = ("step", "epoch", "loss", "smooth_loss", "validation_loss", "learning_rate", "grad_norm", "seconds")


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``metrics.csv`` in a folder.

    Parameters
    ----------
    folder : path
    after_step : int
        Step of the checkpoint that the run resumes from; lines of later steps are dropped. 0 starts new files.
    evaluated : int
        Step of the checkpoint's last evaluation.
    unwritten : list of dict
        The `waiting` records of an earlier writer, for instance of one whose disk was full.

    Warns
    -----
    UserWarning
        If lines of the earlier run are damaged, or those of its last steps are missing. The others are kept.

    See Also
    --------
    read_metrics, rnnx.plots.training_curves

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.optim import SGD
    >>> from rnnx.training import MetricsWriter, Trainer, read_metrics
    >>> trainer = Trainer(SequenceRegressor(1, 4, rng=0), SGD(0.1))
    >>> writer = MetricsWriter(".")
    >>> for progress in trainer.run(Examples(np.ones((1, 8, 5)), np.ones((1, 8))), iterations=3, batch_size=2):
    ...     writer.write(progress, seconds=0.0)
    >>> writer.close()
    >>> [record["step"] for record in read_metrics(".")]  # three steps and an evaluation
    [1, 2, 3, 3]
    """

    def __init__(
        self,
        folder: str | Path,
        after_step: int = 0,
        evaluated: int = 0,
        unwritten: Sequence[dict[str, Any]] = (),
    ) -> None:
        lines, table = Path(folder) / "metrics.jsonl", Path(folder) / "metrics.csv"
        kept, damaged = _records(lines) if after_step and lines.exists() else ([], [])
        kept += [record for record in unwritten if record not in kept]
        last = max([r["step"] for r in kept], default=0)
        problems = [f"dropped damaged lines: {listed(damaged)}"] if damaged else []
        problems += [f"the lines of steps {last + 1} to {after_step} are missing"] if last < after_step else []
        if problems:
            warnings.warn(f"{lines}: {'; '.join(problems)}", UserWarning, stacklevel=2)
        records = [r for r in kept if r["step"] <= (after_step if r["validation_loss"] is None else evaluated)]
        self.seconds = records[-1]["seconds"] if records else 0.0
        self._paths = lines, table
        texts = _json_lines(records), _rows({name: name for name in COLUMNS}, *records)
        for path, text in zip(self._paths, texts, strict=True):
            write_atomically(path, text.encode())
        self._state: tuple[list[int], list[dict[str, Any]]] = [len(text.encode()) for text in texts], []
        self._last: Progress | None = None

    @property
    def waiting(self) -> list[dict[str, Any]]:
        """The records that are not in the files yet."""
        return self._state[1]

    def write(self, progress: Progress, seconds: float) -> None:
        """Append a line to each file; `seconds` is the training time of this process, without that of earlier ones.

        A call with the same `progress` again, after an error or an interrupt, appends nothing.
        """
        values = {**progress.as_dict(), "seconds": round(self.seconds + seconds, 3)}
        if progress is not self._last:
            self.waiting.append({name: values[name] for name in COLUMNS})
            self._last = progress
        if len(self.waiting) >= _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Write to both files. What an error or an interrupt leaves half written, the next flush writes again.

        They are not kept open: the program may close all descriptors, as daemons do.
        """
        sizes, waiting = self._state
        texts = _json_lines(waiting), _rows(*waiting)
        ends = [_write_at(*place) for place in zip(self._paths, sizes, texts, strict=True)]
        self._state = ends, []

    def close(self) -> None:
        """Write the rest."""
        self.flush()


class NoMetrics:
    """Takes the place of `MetricsWriter` where another process writes the files."""

    waiting: Sequence[dict[str, Any]] = ()

    def write(self, progress: Progress, seconds: float) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Write nothing."""


def _json_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _rows(*records: dict[str, Any]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(records)
    return text.getvalue()


def _write_at(path: Path, size: int, text: str) -> int:
    """Write to a file of this size, after its end; return the new size. A file that is gone or shorter is continued."""
    try:
        with open(path, "r+b", opener=lambda path, flags: os.open(path, flags | os.O_CREAT, 0o666)) as file:
            file.seek(min(size, os.fstat(file.fileno()).st_size))
            file.write(text.encode())
            return file.tell()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    r"""Read the records of a run.

    Parameters
    ----------
    path : path
        ``metrics.jsonl`` or its folder. An incomplete last line, left by a killed run, is ignored.

    Raises
    ------
    ValueError, OSError
        If a line is damaged (the message gives its number), or the file cannot be read.

    See Also
    --------
    MetricsWriter, rnnx.plots.training_curves

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.training import read_metrics
    >>> _ = Path("metrics.jsonl").write_text(
    ...     '{"step": 1, "epoch": 1, "loss": 3.2, "validation_loss": null, '
    ...     '"learning_rate": 0.01, "grad_norm": 1.0, "seconds": 0.1}\n'
    ... )
    >>> [(record["step"], record["loss"]) for record in read_metrics(".")]
    [(1, 3.2)]
    """
    path = Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path)
    records, damaged = _records(path)
    if damaged:
        raise ValueError(f"{path}, line {damaged[0]}: not a metrics record")
    return records


def _records(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the records of a file, and the numbers of the damaged lines."""
    records, damaged = [], []
    lines = read_regular(path, _MAX_BYTES).split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # after the last newline: nothing, or half a line
        try:
            records.append(_record(json.loads(line)))
        except (KeyError, RecursionError, TypeError, ValueError):
            damaged.append(number)
    return records, damaged


def checked_records(values: Any) -> list[dict[str, Any]]:
    """Return records from a file after checking them."""
    if not isinstance(values, list):
        raise ValueError("`unwritten` must be a list of metrics records")
    try:
        return [_record(value) for value in values]
    except (KeyError, TypeError, ValueError):
        raise ValueError("`unwritten` must be a list of metrics records") from None


def _record(values: Any) -> dict[str, Any]:
    return {name: _checked(name, values.get(name) if name in _OPTIONAL else values[name]) for name in COLUMNS}


def _checked(name: str, value: Any) -> Any:
    if name in ("step", "epoch"):
        return integer(name, value, 0, 2**63 - 1)
    if value is not None or name not in _OPTIONAL:
        real(name, value)
    return value
