"""The results of all sides, the differences between them, and their table, figure and files."""

import csv
import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnx.compare.records import Result, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = ("report.txt", "report.json", "losses.csv", "comparison.png")
_REFERENCE = "rnnx"
_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
_ABSENT = "-"


@dataclass(frozen=True)
class Report:
    """Results of all sides of a comparison.

    Attributes
    ----------
    peer : str
    settings : Settings
        The arguments of `rnnx.compare.run`.
    sides : dict of str to Result
        By label, rnnx first: losses, seconds, gradients, memory_start, memory_peak, versions, sample.
    vocabulary : list of str or None
        The characters in index order; without them, samples are shown as indices.

    See Also
    --------
    run, rnnx.plots.training_curves

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.compare import run
    >>> report = run("keras", np.arange(400) % 5, hidden_size=8, steps=3)  # doctest: +SKIP
    >>> sorted(path.name for path in report.save("comparison"))  # doctest: +SKIP
    ['comparison.png', 'losses.csv', 'report.json', 'report.txt']
    """

    peer: str
    settings: Settings
    sides: dict[str, Result]
    vocabulary: list[str] | None = None

    def loss_differences(self, label: str) -> np.ndarray:
        """Relative difference of a side's loss from rnnx's at every step, shape (steps,)."""
        reference = self.sides[_REFERENCE].losses
        return np.abs(self.sides[label].losses - reference) / np.where(reference == 0, 1, np.abs(reference))

    def gradient_errors(self, label: str) -> dict[str, float]:
        """Relative difference, in norm, of each first-batch gradient from rnnx's."""
        theirs = self.sides[label].gradients
        return {key: _relative(theirs[key], own) for key, own in self.sides[_REFERENCE].gradients.items()}

    @property
    def tolerance(self) -> float:
        """Largest relative difference of losses and gradients that agree: 1e-5 for float32, 1e-10 for float64."""
        return _TOLERANCE[self.settings.dtype]

    @property
    def agrees(self) -> bool:
        """Whether the losses after one update and all gradients agree to within `tolerance`.

        If a side's model is not the same as rnnx's, as its `note` says, only the loss of the first batch counts.
        """
        return all(
            self.loss_differences(label)[: side.checked_losses].max() <= self.tolerance
            and all(error <= self.tolerance for error in self.gradient_errors(label).values())
            for label, side in self.sides.items()
        )

    @property
    def warm_up(self) -> int:
        """Number of initial steps that the median time excludes."""
        return max(1, min(10, self.settings.steps // 10))

    def step_seconds(self, label: str) -> float:
        """Median time of a step after the warm-up."""
        return float(np.median(self.sides[label].seconds[self.warm_up :]))

    def text(self) -> str:
        """Format the results as a table with one column per side, and the samples."""
        labels = list(self.sides)
        columns = [self._cells(label) for label in labels]
        errors = [self.gradient_errors(label) for label in labels]
        width = max(36, *(len(name) + 2 for name in columns[0]))
        widths = [max(12, len(label) + 3) for label in labels]

        def line(name: str, cells: list[str]) -> str:
            return name.ljust(width) + "".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))

        lines = [self._title(), "", line("", labels)]
        lines += [line(name, [column[name] for column in columns]) for name in columns[0]]
        lines += ["", "gradients of the first batch: relative difference from rnnx's, in norm"]
        lines += [line(f"  {key}", [_ABSENT, *(f"{e[key]:.1e}" for e in errors[1:])]) for key in errors[0]]
        verdict = "agree" if self.agrees else "DO NOT AGREE"
        lines += ["", f"losses after one update and gradients {verdict} to {self.tolerance:.0e}"]
        lines += [line for label in labels for line in self._note(label)]
        if samples := self.samples():
            lines += ["", "samples: each model continues the beginning of the first batch, with its own random numbers"]
            lines += [f"  {label.ljust(width)}{sample!r}" for label, sample in samples.items()]
            lines.append("")
        versions = {name: v for side in self.sides.values() for name, v in side.versions.items()}
        return "\n".join([*lines, ", ".join(f"{name} {version}" for name, version in versions.items())])

    def _note(self, label: str) -> list[str]:
        note = self.sides[label].note
        return textwrap.wrap(f"{label} {note}", 100) if note else []

    def samples(self) -> dict[str, str]:
        """Return the samples of the sides that have one, if another side than rnnx has one."""
        found = {label: side.sample.tolist() for label, side in self.sides.items() if side.sample is not None}
        if set(found) <= {_REFERENCE}:
            return {}
        if self.vocabulary is None:
            return {label: " ".join(map(str, sample)) for label, sample in found.items()}
        return {label: "".join([self.vocabulary[i] for i in sample]) for label, sample in found.items()}

    def _title(self) -> str:
        s = self.settings
        layers = f"{s.num_layers} layer{'s' * (s.num_layers > 1)} of {s.hidden_size} units"
        threads = "" if s.threads is None else f", {s.threads} thread{'s' * (s.threads > 1)}"
        return (
            f"{s.cell_name}, {layers}, {s.vocab_size} characters; {s.steps} steps of {s.batch_size} x {s.seq_length} "
            f"characters; {s.optimizer}, learning rate {s.learning_rate:g}; {s.dtype}; seed {s.seed}{threads}"
        )

    def _cells(self, label: str) -> dict[str, str]:
        """Return a side's column of the table by row name."""
        side, updates = self.sides[label], self.settings.steps - 1
        drift = self.loss_differences(label)
        differences = [f"{d:.1e}" for d in (*drift[[0, 1, -1]], drift.max())] if label != _REFERENCE else [_ABSENT] * 4
        start, peak = side.memory_start, side.memory_peak
        growth = None if start is None or peak is None else max(peak - start, 0.0)
        return {
            "loss of the first batch": f"{side.losses[0]:.6f}",
            "loss after one update": f"{side.losses[1]:.6f}",
            f"loss after {updates} updates": f"{side.losses[-1]:.6f}",
            "relative difference, first batch": differences[0],
            "relative difference, one update": differences[1],
            f"relative difference, {updates} updates": differences[2],
            "largest relative difference": differences[3],
            "start and import, s": f"{side.start_seconds:.2f}",
            "first step, s": f"{side.seconds[0]:.3f}",
            "median of later steps, ms": f"{1000 * self.step_seconds(label):.2f}",
            "  relative to rnnx": f"{self.step_seconds(label) / self.step_seconds(_REFERENCE):.2f}",
            "all steps, s": f"{side.seconds.sum():.2f}",
            "memory after import, MiB": _mib(start),
            "peak memory, MiB": _mib(peak),
            "  used by training, MiB": _mib(growth),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the gradients as JSON-compatible values."""
        return {
            "peer": self.peer,
            "settings": asdict(self.settings),
            "agrees": self.agrees,
            "tolerance": self.tolerance,
            "samples": self.samples(),
            "sides": {
                label: {
                    "losses": side.losses.tolist(),
                    "relative_loss_differences": self.loss_differences(label).tolist(),
                    "relative_gradient_errors": self.gradient_errors(label),
                    "seconds": side.seconds.tolist(),
                    "median_step_seconds": self.step_seconds(label),
                    "start_seconds": side.start_seconds,
                    "memory_start_mib": side.memory_start,
                    "memory_peak_mib": side.memory_peak,
                    "versions": side.versions,
                    "note": side.note,
                }
                for label, side in self.sides.items()
            },
        }

    def figure(self) -> "Figure":
        """Plot the losses, their differences and the step times.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from rnnx.compare.plot import draw

        return draw(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.txt, report.json, losses.csv and comparison.png.

        Returns
        -------
        list of pathlib.Path
            The files.
        """
        from rnnx import plots

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text, values, losses, picture = paths = [folder / name for name in NAMES]
        text.write_text(self.text() + "\n", encoding="utf-8")
        values.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        with losses.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *self.sides])
            rows = zip(*(side.losses.tolist() for side in self.sides.values()), strict=True)
            writer.writerows([step, *row] for step, row in enumerate(rows, 1))
        plots.save(self.figure(), picture)
        return paths


def _relative(actual: np.ndarray, desired: np.ndarray) -> float:
    """Relative difference in norm; NaN, which never agrees, if an entry is NaN."""
    difference, norm = np.linalg.norm(actual - desired), np.linalg.norm(desired)
    return float(difference / norm) if norm else float(difference)


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
