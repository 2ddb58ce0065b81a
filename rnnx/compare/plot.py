"""The figure of a comparison."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnnx.compare.comparison import Comparison
from rnnx.plots import style

# The curves coincide, so later ones are thinner and dashed to keep earlier ones visible.
LINES: tuple[tuple[Any, float], ...] = (("-", 4), ((0, (5, 4)), 2.5), ((0, (1, 3)), 2))
_LEGEND: dict[str, Any] = {"frameon": True, "framealpha": 0.9, "edgecolor": "none"}


def draw(comparison: Comparison) -> Figure:
    """Plot the losses, their differences from rnnx's and the step times."""
    colors = dict(zip(comparison.sides, style.COLORS, strict=False))
    s = comparison.settings
    with style.style():
        figure = style.new_figure(11.5, 3.8)
        losses, differences, times = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
        _losses(losses, comparison, colors)
        _differences(differences, comparison, colors)
        _times(times, comparison, colors)
        for axes in (losses, differences):
            style.step_axis(axes)
            axes.legend(**_LEGEND)
        style.set_suptitle(
            figure,
            f"{s.cell}, {s.num_layers} x {s.hidden_size} units, batches of {s.batch_size} x {s.seq_length}, "
            f"{s.optimizer} {s.learning_rate:g}, {s.dtype}",
        )
    return figure


def _losses(axes: Axes, comparison: Comparison, colors: dict[str, str]) -> None:
    for (line, width), (label, side) in zip(LINES, comparison.sides.items(), strict=False):
        steps = np.arange(1, len(side.losses) + 1)
        axes.plot(steps, side.losses, color=colors[label], ls=line, lw=width, label=label)
    axes.set(title="loss of every step's batch", xlabel="step", ylabel="nats per character")


def _differences(axes: Axes, comparison: Comparison, colors: dict[str, str]) -> None:
    for (line, _), label in list(zip(LINES, comparison.sides, strict=False))[1:]:
        d = comparison.loss_differences(label)
        steps = np.arange(1, len(d) + 1)
        d = np.where(d > 0, d, np.nan)  # identical losses have no place on a logarithmic axis
        axes.plot(steps, d, color=colors[label], ls=line, marker=".", ms=4, lw=1.5, label=label)
    axes.axhline(comparison.tolerance, color="0.4", lw=1, ls=":", label="tolerance after one update")
    axes.set(yscale="log", title="relative difference from rnnx's loss", xlabel="step")


def _times(axes: Axes, comparison: Comparison, colors: dict[str, str]) -> None:
    names = []
    for at, (label, side) in enumerate(comparison.sides.items()):
        seconds = 1000 * side.seconds[comparison.warm_up :]
        median = 1000 * comparison.step_seconds(label)
        spread = np.abs(np.quantile(seconds, (0.1, 0.9)) - median)[:, None]
        axes.bar(at, median, 0.6, color=colors[label], yerr=spread, ecolor="0.3", capsize=4)
        names.append(f"{label}\n{median:.3g} ms")
    axes.set_xticks(range(len(names)), names)
    axes.set(title="time of a step", ylabel="ms; median, 10 to 90 %")
