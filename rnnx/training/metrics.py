"""The metrics of a run as files: a JSON line and a CSV line for every step and evaluation."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnx._core.files import write_atomically
from rnnx.training.trainer import Progress

COLUMNS = ("step", "epoch", "loss", "smooth_loss", "validation_loss", "learning_rate", "grad_norm", "seconds")


class MetricsWriter:
    """Appends to ``metrics.jsonl`` and ``metrics.csv`` in a folder.

    Parameters
    ----------
    folder : path
    after_step : int
        A run that goes on from a checkpoint of this step: lines of later steps, which the checkpoint does not know,
        are dropped. 0 begins anew.
    evaluated : int
        Step of the last evaluation that the checkpoint knows.
    """

    def __init__(self, folder: str | Path, after_step: int = 0, evaluated: int = 0) -> None:
        self.folder = Path(folder)
        records = []
        if after_step and (self.folder / "metrics.jsonl").exists():
            for record in _records(self.folder / "metrics.jsonl", strict=False):
                last = evaluated if record["validation_loss"] is not None else after_step
                if record["step"] <= last:
                    records.append(record)
        self.seconds = records[-1]["seconds"] if records else 0.0
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.folder / "metrics.jsonl", lines.encode())
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        write_atomically(self.folder / "metrics.csv", table.getvalue().encode())
        self._lines = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._table = (self.folder / "metrics.csv").open("a", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._table, COLUMNS, lineterminator="\n")

    def write(self, progress: Progress, seconds: float) -> None:
        """One line in each file.

        Parameters
        ----------
        progress : Progress
        seconds : float
            Since this process began to train; what earlier processes took is added.
        """
        values = {**progress.as_dict(), "seconds": round(self.seconds + seconds, 3)}
        record = {name: values[name] for name in COLUMNS}
        line = json.dumps(record) + "\n"
        self._lines.write(line)
        self._rows.writerow(record)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._lines.flush()
        self._table.flush()

    def close(self) -> None:
        """No more lines."""
        try:
            self._lines.close()
        finally:
            self._table.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a run.

    Parameters
    ----------
    path : path
        ``metrics.jsonl``, or the folder that holds it. An unfinished last line, as a killed run leaves it, is no error.

    Raises
    ------
    ValueError
        For a line that is not a record; says which.
    OSError
        If the file cannot be read.
    """
    return list(_records(Path(path) / "metrics.jsonl" if Path(path).is_dir() else Path(path), strict=True))


def _records(path: Path, strict: bool) -> Iterator[dict[str, Any]]:
    """The records of a file; of a damaged one an error, or those before the damage."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # behind the last newline: nothing, or half a line
        try:
            record = json.loads(line)
            yield {name: record[name] for name in COLUMNS}
        except (KeyError, TypeError, ValueError):
            if strict:
                raise ValueError(f"{path}, line {number}: not a record of metrics") from None
            return
