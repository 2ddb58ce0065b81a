"""What a comparison found: numbers, a table, files."""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnx.compare.exchange import Result, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = "rnnx"
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # relative; of gradients in the norm of an array
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
        By label, rnnx first: losses, seconds, gradients, memory_start, memory_peak, versions.
    """

    peer: str
    settings: Settings
    sides: dict[str, Result]

    def loss_differences(self, label: str) -> np.ndarray:
        """Of a side's losses from rnnx's, relative to these, for every step, shape (steps,)."""
        reference = self.sides[REFERENCE].losses
        return np.abs(self.sides[label].losses - reference) / np.abs(reference)

    def gradient_errors(self, label: str) -> dict[str, float]:
        """Of every gradient of the first batch: norm of the difference from rnnx's, relative to its norm."""
        own = self.sides[REFERENCE].gradients
        theirs = self.sides[label].gradients
        return {key: _relative(theirs[key], g) for key, g in own.items()}

    @property
    def agrees(self) -> bool:
        """Whether losses after one update, and all gradients, agree to 1e-5 (float64: 1e-10)."""
        tolerance = TOLERANCE[self.settings.dtype]
        return all(
            self.loss_differences(label)[:2].max() <= tolerance
            and all(error <= tolerance for error in self.gradient_errors(label).values())
            for label in self.sides
        )

    @property
    def warm_up(self) -> int:
        """Steps that the median time leaves out."""
        return max(1, min(10, self.settings.steps // 10))

    def step_seconds(self, label: str) -> float:
        """Median time of a step after the warm-up."""
        return float(np.median(self.sides[label].seconds[self.warm_up :]))

    def text(self) -> str:
        """A table, a column per side, and the errors of the gradients."""
        labels = list(self.sides)
        width = max(36, *(len(name) + 2 for name, _ in self._rows()))
        columns = [max(12, len(label) + 3) for label in labels]

        def line(name: str, cells: list[str]) -> str:
            return name.ljust(width) + "".join(c.rjust(w) for c, w in zip(cells, columns, strict=True))

        lines = [self._title(), "", line("", labels)]
        lines += [line(name, cells) for name, cells in self._rows()]
        lines += ["", "gradients of the first batch: norm of the difference, relative"]
        errors = [self.gradient_errors(label) for label in labels]
        for key in errors[0]:
            lines.append(line(f"  {key}", [_ABSENT, *(f"{e[key]:.1e}" for e in errors[1:])]))
        versions = {name: v for side in self.sides.values() for name, v in side.versions.items()}
        verdict = "agree" if self.agrees else "DO NOT AGREE"
        return "\n".join(
            [
                *lines,
                "",
                f"losses after one update and gradients {verdict} to {TOLERANCE[self.settings.dtype]:.0e}",
                ", ".join(f"{name} {version}" for name, version in versions.items()),
            ]
        )

    def _title(self) -> str:
        s = self.settings
        layers = f"{s.num_layers} layer{'s' * (s.num_layers > 1)} of {s.hidden_size} units"
        threads = "" if s.threads is None else f", {s.threads} thread{'s' * (s.threads > 1)}"
        return (
            f"{s.cell}, {layers}, {s.vocab_size} characters; {s.steps} steps of {s.batch_size} x {s.seq_length} "
            f"characters; {s.optimizer}, learning rate {s.learning_rate:g}; {s.dtype}; seed {s.seed}{threads}"
        )

    def _rows(self) -> list[tuple[str, list[str]]]:
        """Names and cells of the table."""
        sides, n = self.sides, self.settings.steps
        drift = {label: self.loss_differences(label) for label in sides}

        def of(form: str, value: Any) -> list[str]:
            return [form.format(value(label)) for label in sides]

        def apart(value: Any) -> list[str]:
            return [_ABSENT, *(f"{value(drift[label]):.1e}" for label in list(sides)[1:])]

        return [
            ("loss of the first batch", of("{:.6f}", lambda label: sides[label].losses[0])),
            ("loss after one update", of("{:.6f}", lambda label: sides[label].losses[1])),
            (f"loss after {n - 1} updates", of("{:.6f}", lambda label: sides[label].losses[-1])),
            ("relative difference, first batch", apart(lambda d: d[0])),
            ("relative difference, one update", apart(lambda d: d[1])),
            (f"relative difference, {n - 1} updates", apart(lambda d: d[-1])),
            ("largest relative difference", apart(lambda d: d.max())),
            ("start and import, s", of("{:.2f}", lambda label: sides[label].start_seconds)),
            ("first step, s", of("{:.3f}", lambda label: sides[label].seconds[0])),
            ("median of later steps, ms", of("{:.2f}", lambda label: 1000 * self.step_seconds(label))),
            (
                "  over that of rnnx",
                of("{:.2f}", lambda label: self.step_seconds(label) / self.step_seconds(REFERENCE)),
            ),
            ("all steps, s", of("{:.2f}", lambda label: sides[label].seconds.sum())),
            ("memory after import, MiB", [_mib(side.memory_start) for side in sides.values()]),
            ("peak of memory, MiB", [_mib(side.memory_peak) for side in sides.values()]),
            ("  training's part of it, MiB", [_mib(_growth(side)) for side in sides.values()]),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without the gradients themselves."""
        return {
            "peer": self.peer,
            "settings": asdict(self.settings),
            "agrees": self.agrees,
            "tolerance": TOLERANCE[self.settings.dtype],
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
                }
                for label, side in self.sides.items()
            },
        }

    def figure(self) -> "Figure":
        """Losses, their differences, and times, as a matplotlib figure."""
        from rnnx.compare.plot import draw

        return draw(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write report.txt, report.json, losses.csv and comparison.png.

        Returns
        -------
        list of pathlib.Path
            The files.
        """
        from rnnx.plots import save as save_picture

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("report.txt", "report.json", "losses.csv", "comparison.png")
        text, values, losses, picture = paths = [folder / name for name in names]
        text.write_text(self.text() + "\n", encoding="utf-8")
        values.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        with losses.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *self.sides])
            rows = zip(*(side.losses.tolist() for side in self.sides.values()), strict=True)
            writer.writerows([step, *row] for step, row in enumerate(rows, 1))
        save_picture(self.figure(), picture)
        return paths


def _relative(actual: np.ndarray, desired: np.ndarray) -> float:
    """NaN, which is no agreement, if there is one."""
    difference, norm = np.linalg.norm(actual - desired), np.linalg.norm(desired)
    return float(difference / norm) if norm else float(difference)


def _growth(side: Result) -> float | None:
    if side.memory_start is None or side.memory_peak is None:
        return None
    return max(side.memory_peak - side.memory_start, 0.0)


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
