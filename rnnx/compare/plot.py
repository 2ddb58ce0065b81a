"""The figure of a report."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from rnnx.plots import style

if TYPE_CHECKING:
    from rnnx.compare.report import Report

# The curves coincide, so later ones are thinner and dashed to keep earlier ones visible.
LINES: tuple[tuple[Any, float], ...] = (("-", 4), ((0, (5, 4)), 2.5), ((0, (1, 3)), 2), ("-", 1))


@style.style()
def draw(report: "Report") -> Figure:
    """Plot the losses, their differences from rnnx's and the step times."""
    s = report.settings
    figure = style.new_figure(
        11.5,
        3.8,
        f"{s.cell_name}, {s.num_layers} x {s.hidden_size} units, batches of {s.batch_size} x {s.seq_length}, "
        f"{s.optimizer} {s.learning_rate:g}, {s.dtype}",
    )
    losses, differences, times = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    found = [report.loss_differences(label) for label in list(report.sides)[1:]]
    zero = style.log_axis(differences, [*found, np.array([report.tolerance])])
    for at, (label, color) in enumerate(zip(report.sides, style.COLORS, strict=False)):
        line, width = LINES[at]
        look = {"color": color, "ls": line, "label": label}
        steps = np.arange(1, s.steps + 1)
        losses.plot(steps, report.sides[label].losses, lw=width, **look)
        if at:
            d = report.loss_differences(label)
            differences.plot(steps, np.where(d == 0, zero, d), marker=".", ms=4, lw=1.5, **look)
        seconds = 1000 * report.sides[label].seconds[report.warm_up :]
        median = 1000 * report.step_seconds(label)
        spread = np.abs(np.quantile(seconds, (0.1, 0.9)) - median)[:, None]
        name = label.replace(" ", "\n")
        times.bar(f"{name}\n{median:.3g} ms", median, 0.6, color=color, yerr=spread, ecolor="0.3", capsize=4)
    differences.axhline(report.tolerance, color="0.4", lw=1, ls=":", label="tolerance after one update")
    losses.set(title="loss of every step's batch", xlabel="step", ylabel="nats per character")
    differences.set(title="relative difference from rnnx's loss", xlabel="step")
    times.set(title="time of a step", ylabel="ms; median, 10 to 90 %")
    for axes in (losses, differences):
        style.step_axis(axes)
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none")
    return figure
