"""Training curves of one or more runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnnx._core import checks
from rnnx.plots import characters, style

Records = Sequence[Mapping[str, Any]]
_SMALL_PANELS = {"grad_norm": "gradient norm", "learning_rate": "learning rate"}


def training_curves(
    metrics: Records | Mapping[str, Records],
    *,
    smoothing: int | None = None,
    unit: str = "nats per character",
    title: str | None = None,
) -> Figure:
    """Plot loss, smoothed loss and validation loss over the steps, with gradient norm and learning rate below.

    Parameters
    ----------
    metrics : list of dict, or dict of str to list of dict
        The records of one run as returned by `rnnx.training.read_metrics`, or of several runs by name. Keys: step,
        loss, smooth_loss, validation_loss, grad_norm, learning_rate; all but step may be missing or None. A record
        with a validation loss is an evaluation, and its loss is not that of a step.
    smoothing : int, optional
        Time constant, in steps, of the smoothed loss, a centered exponential average. Default: a hundredth of the run,
        at least 5. With 0, plot the `smooth_loss` of the records, which takes about a thousand steps to forget its
        initial value.
    unit : str
        Unit of the loss.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure
        A constant learning rate has no panel.

    Raises
    ------
    ValueError
        If a run has no finite loss.
    """
    runs = {"": metrics} if not isinstance(metrics, Mapping) else metrics
    _check(runs)
    if smoothing is not None:
        checks.integer("smoothing", smoothing, 0)
    keys = [key for key in _SMALL_PANELS if _is_worth_a_panel(runs, key)]
    with style.style():
        figure = style.new_figure(7.0, 3.9 + 1.1 * len(keys))
        ratios = [3.2, *[1.0] * len(keys)]
        panels = figure.subplots(1 + len(keys), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
        handles, names = _draw_losses(panels[0], runs, smoothing)
        panels[0].set_ylabel(f"loss [{characters.printable(unit)}]", parse_math=False)
        for axes, key in zip(panels[1:], keys, strict=True):
            _draw_column(axes, runs, key)
        for axes in panels:
            axes.grid(True)
        figure.align_ylabels()
        panels[-1].set_xlabel("optimizer step")
        style.step_axis(panels[-1])
        style.set_suptitle(figure, title or ("Training" if len(runs) == 1 else "Training runs"))
        style.add_legend(figure, handles, names)
    return figure


def _is_worth_a_panel(runs: Mapping[str, Records], key: str) -> bool:
    """Whether a column has values and, for the learning rate, is not constant."""
    values = np.concatenate([_column(records, key)[1] for records in runs.values()])
    return len(values) > 0 and (key != "learning_rate" or len(np.unique(values)) > 1)


def _check(runs: Mapping[str, Records]) -> None:
    if not runs:
        raise ValueError("`metrics` must contain at least one run; got an empty dict")
    for name, records in runs.items():
        what = f"`metrics[{name!r}]`" if name else "`metrics`"
        if not isinstance(records, list | tuple) or not all(isinstance(r, Mapping) and "step" in r for r in records):
            raise TypeError(f"{what} must be a list of records: dicts with the key 'step'")
        if not has_losses(records):
            raise ValueError(f"{what} must contain a finite loss; its {len(records)} records have none")


def has_losses(records: Records) -> bool:
    """Whether there is a finite loss; a run that diverged at once has none."""
    return any(np.isfinite(_column(records, key)[1]).any() for key in ("loss", "smooth_loss", "validation_loss"))


def _column(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that have a value for a key, and the values."""
    pairs = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    return np.array([p[0] for p in pairs], np.float64), np.array([p[1] for p in pairs], np.float64)


def _draw_losses(axes: Axes, runs: Mapping[str, Records], smoothing: int | None) -> tuple[list[Any], list[str]]:
    """Draw the loss curves of all runs; return handles and names for the legend."""
    handles: list[Any] = []
    names: list[str] = []
    alone = len(runs) == 1
    for k, (name, records) in enumerate(runs.items()):
        color, line = _run_style(k)
        steps = [r for r in records if r.get("validation_loss") is None] or records
        drawn = {
            "batch": axes.plot(
                *_column(steps, "loss"), color=style.SKY if alone else color, lw=0.6, alpha=0.7 if alone else 0.35
            ),
            "smoothed": axes.plot(*_smoothed(records, steps, smoothing), color=color, ls=line),
            "validation": axes.plot(
                *_column(records, "validation_loss"),
                color=style.VERMILLION if alone else color,
                lw=0.8,
                ls=":",
                marker="o",
                markersize=4,
                markeredgecolor="white",
                markeredgewidth=0.5,
            ),
        }
        kinds = {kind: lines[0] for kind, lines in drawn.items() if len(np.asarray(lines[0].get_xdata()))}
        if alone:
            handles, names = list(kinds.values()), list(kinds)
        else:
            handles.append(kinds.get("smoothed") or next(iter(kinds.values())))
            names.append(name)
    if not alone:
        _explain(axes)
    return handles, names


def _smoothed(records: Records, steps: Records, smoothing: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Average the losses around every step with weights that decay exponentially on both sides, to avoid a lag."""
    at, losses = _column(steps, "loss")
    if smoothing == 0 or len(at) < 2:
        return _column(records, "smooth_loss")
    keep = math.exp(-1 / (smoothing or max(5, len(at) / 100)))
    finite = np.isfinite(losses)
    losses, weights = np.where(finite, losses, 0.0), finite.astype(float)
    total, weight = (_both_sides(a, keep) for a in (losses, weights))
    return at, np.divide(total, weight, out=np.full(len(at), math.nan), where=weight > 0)


def _both_sides(values: np.ndarray, keep: float) -> np.ndarray:
    """Return the sum over s of values[s] * keep ** abs(t - s), for every t."""
    before, after = values.copy(), values.copy()
    for t in range(1, len(values)):
        before[t] += keep * before[t - 1]
        after[-1 - t] += keep * after[-t]
    return before + after - values


def _explain(axes: Axes) -> None:
    """Explain the kinds of lines in the title, because the legend names the runs."""
    axes.set_title("thin: batch, thick: smoothed, points: validation", fontsize=8, color="#555555")


def _draw_column(axes: Axes, runs: Mapping[str, Records], key: str) -> None:
    columns = [_column(records, key) for records in runs.values()]
    for k, (steps, values) in enumerate(columns):
        color, line = _run_style(k)
        axes.plot(steps, values, color=color, ls=line, lw=0.8 if key == "grad_norm" else 1.4)
    axes.set_ylabel(_SMALL_PANELS[key])
    if key == "grad_norm":
        style.log_axis(axes, [values for _, values in columns])
    else:
        axes.set_ylim(bottom=min(0, *(values.min(initial=0) for _, values in columns)))


def _run_style(k: int) -> tuple[str, str]:
    """Return the color and line style of run k."""
    n = len(style.COLORS)
    return style.COLORS[k % n], style.LINES[k // n % len(style.LINES)]
