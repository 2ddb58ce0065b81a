"""The picture of a comparison."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnx.compare.report import TOLERANCE, Report
from rnnx.plots import style

STYLES: tuple[Any, ...] = ("-", (0, (5, 4)), (0, (1, 3)))  # the curves lie on each other: each lets the last through


def draw(report: Report) -> Figure:
    """Losses on top of each other, their difference from rnnx's, and the time of a step."""
    looks = dict(zip(report.sides, zip(style.COLOURS, STYLES, strict=False), strict=False))
    s = report.settings
    with style.style():
        figure = style.new_figure(11.5, 3.8)
        losses, differences, times = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
        _losses(losses, report, looks)
        _differences(differences, report, looks)
        _times(times, report, looks)
        for axes in (losses, differences):
            style.step_axis(axes)
        style.set_suptitle(
            figure,
            f"{s.cell}, {s.num_layers} x {s.hidden_size} units, batches of {s.batch_size} x {s.seq_length}, "
            f"{s.optimizer} {s.learning_rate:g}, {s.dtype}",
        )
    return figure


def _losses(axes: Any, report: Report, looks: dict[str, Any]) -> None:
    for width, (label, side) in zip((4, 2.5, 2), report.sides.items(), strict=False):
        color, style = looks[label]
        axes.plot(np.arange(1, len(side.losses) + 1), side.losses, color=color, ls=style, lw=width, label=label)
    axes.set(title="loss of every step's batch", xlabel="step", ylabel="nats per character")
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none")  # on top of the lines


def _differences(axes: Any, report: Report, looks: dict[str, Any]) -> None:
    for label in list(report.sides)[1:]:
        d = report.loss_differences(label)
        steps = np.arange(1, len(d) + 1)
        # Equal to the last bit is not to be seen on a logarithmic axis: nothing is drawn there.
        color, style = looks[label]
        axes.plot(steps, np.where(d > 0, d, np.nan), color=color, ls=style, marker=".", ms=4, lw=1.5, label=label)
    axes.axhline(TOLERANCE[report.settings.dtype], color="0.4", lw=1, ls=":", label="wanted after one update")
    axes.set(yscale="log", title="relative difference from rnnx's loss", xlabel="step")
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none")  # on top of the lines


def _times(axes: Any, report: Report, looks: dict[str, Any]) -> None:
    for at, label in enumerate(report.sides):
        seconds = 1000 * report.sides[label].seconds[report.warm_up :]
        median = 1000 * report.step_seconds(label)
        spread = np.abs(np.quantile(seconds, (0.1, 0.9)) - median)[:, None]
        axes.bar(at, median, 0.6, color=looks[label][0], yerr=spread, ecolor="0.3", capsize=4)
    names = [f"{label}\n{1000 * report.step_seconds(label):.3g} ms" for label in report.sides]
    axes.set_xticks(range(len(names)), names)
    axes.set(title="time of a step", ylabel="ms; median, 10 to 90 %")
