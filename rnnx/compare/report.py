"""A comparison as a table, a figure and files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnx.compare.comparison import REFERENCE, Comparison
from rnnx.compare.records import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ABSENT = "-"


class Report(Comparison):
    """Results of all sides of a comparison.

    Attributes
    ----------
    peer : str
    settings : Settings
        The arguments of `rnnx.compare.run`.
    sides : dict of str to Result
        By label, rnnx first: losses, seconds, gradients, memory_start, memory_peak, versions.
    """

    def text(self) -> str:
        """Format the results as a table with one column per side."""
        labels, rows = list(self.sides), self._rows()
        width = max(36, *(len(name) + 2 for name, _ in rows))
        columns = [max(12, len(label) + 3) for label in labels]

        def line(name: str, cells: list[str]) -> str:
            return name.ljust(width) + "".join(c.rjust(w) for c, w in zip(cells, columns, strict=True))

        lines = [self._title(), "", line("", labels), *(line(name, cells) for name, cells in rows)]
        lines += ["", "gradients of the first batch: relative difference from rnnx's, in norm"]
        errors = [self.gradient_errors(label) for label in labels]
        for key in errors[0]:
            lines.append(line(f"  {key}", [_ABSENT, *(f"{e[key]:.1e}" for e in errors[1:])]))
        verdict = "agree" if self.agrees else "DO NOT AGREE"
        lines += ["", f"losses after one update and gradients {verdict} to {self.tolerance:.0e}"]
        versions = {name: v for side in self.sides.values() for name, v in side.versions.items()}
        return "\n".join([*lines, ", ".join(f"{name} {version}" for name, version in versions.items())])

    def _title(self) -> str:
        s = self.settings
        layers = f"{s.num_layers} layer{'s' * (s.num_layers > 1)} of {s.hidden_size} units"
        threads = "" if s.threads is None else f", {s.threads} thread{'s' * (s.threads > 1)}"
        return (
            f"{s.cell}, {layers}, {s.vocab_size} characters; {s.steps} steps of {s.batch_size} x {s.seq_length} "
            f"characters; {s.optimizer}, learning rate {s.learning_rate:g}; {s.dtype}; seed {s.seed}{threads}"
        )

    def _rows(self) -> list[tuple[str, list[str]]]:
        """Return the names and cells of the table."""
        sides, n = self.sides, self.settings.steps
        drift = {label: self.loss_differences(label) for label in sides}

        def of(form: str, value: Callable[[str], Any]) -> list[str]:
            return [form.format(value(label)) for label in sides]

        def apart(value: Callable[[Any], float]) -> list[str]:
            return [_ABSENT, *(f"{value(drift[label]):.1e}" for label in list(sides)[1:])]

        def ratio(label: str) -> float:
            return self.step_seconds(label) / self.step_seconds(REFERENCE)

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
            ("  relative to rnnx", of("{:.2f}", ratio)),
            ("all steps, s", of("{:.2f}", lambda label: sides[label].seconds.sum())),
            ("memory after import, MiB", [_mib(side.memory_start) for side in sides.values()]),
            ("peak memory, MiB", [_mib(side.memory_peak) for side in sides.values()]),
            ("  used by training, MiB", [_mib(_growth(side)) for side in sides.values()]),
        ]

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
        names = ("report.txt", "report.json", "losses.csv", "comparison.png")
        text, values, losses, picture = paths = [folder / name for name in names]
        text.write_text(self.text() + "\n", encoding="utf-8")
        values.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        with losses.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *self.sides])
            rows = zip(*(side.losses.tolist() for side in self.sides.values()), strict=True)
            writer.writerows([step, *row] for step, row in enumerate(rows, 1))
        plots.save(self.figure(), picture)
        return paths


def _growth(side: Result) -> float | None:
    if side.memory_start is None or side.memory_peak is None:
        return None
    return max(side.memory_peak - side.memory_start, 0.0)


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
