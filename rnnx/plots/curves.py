"""Training curves of one or more runs, and gradient norms over time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnnx._core import checks
from rnnx.plots import characters, style

Records = Sequence[Mapping[str, Any]]
Curve = tuple[np.ndarray, np.ndarray]  # steps and values
_SMALL_PANELS = {"grad_norm": "gradient norm", "learning_rate": "learning rate"}


@style.style()
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
        Time constant, in steps, of the smoothed loss, a centered exponential average of the loss. By default the
        smoothed loss is the `smooth_loss` of the records, which ``rnnx train`` prints: an average over about the last
        tenth of the steps, but at most a hundred.
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

    See Also
    --------
    rnnx.training.read_metrics, plot_run, save

    Examples
    --------
    >>> from rnnx.plots import training_curves
    >>> adam = [{"step": t, "loss": 3.0 / t, "validation_loss": None} for t in range(1, 50)]
    >>> sgd = [{"step": t, "loss": 3.0 / t**0.5, "validation_loss": None} for t in range(1, 50)]
    >>> figure = training_curves({"Adam": adam, "SGD": sgd}, unit="nats")
    >>> figure.axes[0].get_ylabel()
    'loss [nats]'
    """
    runs = {"": metrics} if not isinstance(metrics, Mapping) else metrics
    _check(runs)
    if smoothing is not None:
        checks.integer("smoothing", smoothing)
    columns = {key: [_column(records, key) for records in runs.values()] for key in _SMALL_PANELS}
    shown = {key: curves for key, curves in columns.items() if _is_worth_a_panel(key, curves)}
    figure = style.new_figure(7.0, 3.9 + 1.1 * len(shown), title or ("Training" if len(runs) == 1 else "Training runs"))
    ratios = [3.2, *[1.0] * len(shown)]
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    handles, names = _draw_losses(panels[0], runs, smoothing)
    panels[0].set_ylabel(f"loss [{characters.printable(unit)}]", parse_math=False)
    for axes, (key, curves) in zip(panels[1:], shown.items(), strict=True):
        _draw_small_panel(axes, key, curves)
    for axes in panels:
        axes.grid(True)
    figure.align_ylabels()
    panels[-1].set_xlabel("optimizer step")
    style.step_axis(panels[-1])
    style.add_legend(figure, handles, names)
    return figure


def _is_worth_a_panel(key: str, curves: Sequence[Curve]) -> bool:
    """Whether there are values and, for the learning rate, different ones."""
    values = np.concatenate([values for _, values in curves])
    return len(values) > 0 and (key != "learning_rate" or len(np.unique(values)) > 1)


def _check(runs: Mapping[str, Records]) -> None:
    if not runs:
        raise ValueError("`metrics` must contain at least one run; got an empty dict")
    for name, records in runs.items():
        what = f"`metrics[{name!r}]`" if name else "`metrics`"
        if not isinstance(records, list | tuple) or not all(isinstance(r, Mapping) and "step" in r for r in records):
            raise TypeError(f"{what} must be a list of dicts with the key 'step'")
        if not has_losses(records):
            raise ValueError(f"{what} must contain a finite loss; none of its {len(records)} records has one")


def has_losses(records: Records) -> bool:
    """Whether there is a finite loss; a run that diverged at once has none."""
    return any(np.isfinite(_column(records, key)[1]).any() for key in ("loss", "smooth_loss", "validation_loss"))


def _column(records: Records, key: str) -> Curve:
    """Return the steps that have a value for a key, and the values."""
    pairs = np.array([(r["step"], r[key]) for r in records if r.get(key) is not None], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _draw_losses(axes: Axes, runs: Mapping[str, Records], smoothing: int | None) -> tuple[list[Any], list[str]]:
    """Draw the loss curves of all runs; return handles and names for the legend."""
    handles: list[Any] = []
    names: list[str] = []
    alone = len(runs) == 1
    for k, (name, records) in enumerate(runs.items()):
        color, line = _run_style(k)
        steps = [r for r in records if r.get("validation_loss") is None] or records
        batch: dict[str, Any] = {"color": style.SKY if alone else color, "alpha": 0.7 if alone else 0.35}
        points: dict[str, Any] = {"marker": "o", "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.5}
        points["color"] = style.VERMILLION if alone else color
        drawn = {
            "batch": axes.plot(*_column(steps, "loss"), lw=0.6, **batch),
            "smoothed": axes.plot(*_smoothed(steps, smoothing), color=color, ls=line),
            "validation": axes.plot(*_column(records, "validation_loss"), lw=0.8, ls=":", **points),
        }
        kinds = {kind: lines[0] for kind, lines in drawn.items() if len(np.asarray(lines[0].get_xdata()))}
        if alone:
            return list(kinds.values()), list(kinds)
        handles.append(kinds.get("smoothed") or next(iter(kinds.values())))
        names.append(name)
    # The legend names the runs, so the title explains the lines.
    axes.set_title("thin: batch, thick: smoothed, points: validation", fontsize=8, color="#555555")
    return handles, names


def _smoothed(steps: Records, smoothing: int | None) -> Curve:
    """Return the recorded average or, with `smoothing`, one with weights on both sides of a step, which has no lag."""
    if smoothing is None:
        return _column(steps, "smooth_loss")
    at, losses = _column(steps, "loss")
    keep = math.exp(-1 / smoothing)
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


def _draw_small_panel(axes: Axes, key: str, curves: Sequence[Curve]) -> None:
    zero = style.log_axis(axes, [values for _, values in curves]) if key == "grad_norm" else 0.0
    for k, (steps, values) in enumerate(curves):
        color, line = _run_style(k)
        shown = np.where(values == 0, zero, values)
        axes.plot(steps, shown, color=color, ls=line, lw=0.8 if key == "grad_norm" else 1.4)
    axes.set_ylabel(_SMALL_PANELS[key])
    if key != "grad_norm":
        axes.set_ylim(bottom=min(values.min(initial=0) for _, values in curves))


def _run_style(k: int) -> tuple[str, str]:
    """Return the color and line style of run k."""
    n = len(style.COLORS)
    return style.COLORS[k % n], style.LINES[k // n % len(style.LINES)]


@style.style()
def gradient_norms(curves: Mapping[str, Any], *, title: str | None = None) -> Figure:
    """Plot gradient norms over the time steps on a logarithmic scale, to see where they vanish or explode.

    Parameters
    ----------
    curves : dict of str to array, shape (T + 1,)
        Per network, the result of `rnnx.analysis.gradient_norms`: entry t is the norm of the gradient with respect to
        the state after t steps.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure
        Zero norms, from gradients that underflowed, are at the bottom, where the axis says 0.

    Raises
    ------
    ValueError
        If there is no curve, or a curve is empty, not one-dimensional, or negative.

    See Also
    --------
    rnnx.analysis.gradient_norms, save

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.plots import gradient_norms
    >>> steps = np.arange(21)
    >>> figure = gradient_norms({"RNN": 0.5 ** (20 - steps), "LSTM": 0.95 ** (20 - steps)})
    >>> figure.axes[0].get_yscale()
    'log'
    """
    arrays = style.all_to_numpy("curves", curves, "curves[{!r}]")
    for name, norms in arrays.items():
        if norms.ndim != 1 or not len(norms):
            raise ValueError(f"`curves[{name!r}]` must be a non-empty array of shape (T + 1,); got shape {norms.shape}")
        if (norms < 0).any():
            raise ValueError(f"`curves[{name!r}]` must not be negative; got {norms.min()}")
    figure = style.new_figure(7.5, 4.0, title or "Gradient norms over time")
    axes = figure.subplots()
    zero = style.log_axis(axes, arrays.values())
    drawn = []
    for k, norms in enumerate(arrays.values()):
        drawn += axes.plot(
            np.where(norms == 0, zero, norms),
            color=style.COLORS[k % len(style.COLORS)],
            ls=style.LINES[k % len(style.LINES)],
            marker="o" if len(norms) == 1 else None,
        )
    axes.grid(True)
    style.step_axis(axes)
    axes.set_xlabel("time step $t$  (the loss is at the right end)")
    axes.set_ylabel("norm of ∂loss / ∂(state after step $t$)")
    style.add_legend(figure, drawn, list(arrays))
    return figure
