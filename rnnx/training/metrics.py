"""The metrics of a run as JSON lines and CSV, with one line per step and evaluation."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

from rnnx._core.checks import integer, listed, real
from rnnx._core.files import read_regular, write_atomically
from rnnx.training.progress import Progress

_MAX_BYTES = 1 << 30
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

    Warns
    -----
    UserWarning
        If lines of the earlier run are damaged. The others are kept.
    """

    def __init__(self, folder: str | Path, after_step: int = 0, evaluated: int = 0) -> None:
        lines, table = Path(folder) / "metrics.jsonl", Path(folder) / "metrics.csv"
        kept, damaged = _records(lines) if after_step and lines.exists() else ([], [])
        if damaged:
            warnings.warn(f"{lines}: dropped damaged lines: {listed(damaged)}", UserWarning, stacklevel=2)
        records = [r for r in kept if r["step"] <= (after_step if r["validation_loss"] is None else evaluated)]
        self.seconds = records[-1]["seconds"] if records else 0.0
        write_atomically(lines, "".join(json.dumps(record) + "\n" for record in records).encode())
        text = io.StringIO()
        rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(records)
        write_atomically(table, text.getvalue().encode())
        self._lines, self._table = (lines, io.StringIO()), (table, io.StringIO())  # with what is not written yet
        self._rows = csv.DictWriter(self._table[1], COLUMNS, lineterminator="\n")

    def write(self, progress: Progress, seconds: float) -> None:
        """Append a line to each file; `seconds` is the training time of this process, without that of earlier ones."""
        values = {**progress.as_dict(), "seconds": round(self.seconds + seconds, 3)}
        record = {name: values[name] for name in COLUMNS}
        self._rows.writerow(record)
        if self._lines[1].write(json.dumps(record) + "\n") and self._lines[1].tell() >= io.DEFAULT_BUFFER_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write to both files. They are not kept open: the program may close all descriptors, as daemons do."""
        for path, text in (self._lines, self._table):
            data = text.getvalue()
            text.seek(0)
            text.truncate()
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(data)

    def close(self) -> None:
        """Write the rest."""
        self.flush()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a run.

    Parameters
    ----------
    path : path
        ``metrics.jsonl`` or its folder. An incomplete last line, left by a killed run, is ignored.

    Raises
    ------
    ValueError, OSError
        If a line is damaged (the message gives its number), or the file cannot be read.
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
            values = json.loads(line)
            records.append({name: _checked(name, values[name]) for name in COLUMNS})
        except (KeyError, RecursionError, TypeError, ValueError):
            damaged.append(number)
    return records, damaged


def _checked(name: str, value: Any) -> Any:
    if name in ("step", "epoch"):
        return integer(name, value, 0, 2**63 - 1)
    if value is not None or name not in ("smooth_loss", "validation_loss"):
        real(name, value)
    return value
