"""Forecasts beside the observed values, and confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnx._core.checks import check_indices, check_shape
from rnnx.plots import style
from rnnx.plots.characters import printable

_MOST_NUMBERS = 25  # classes whose counts are written into a confusion matrix


@style.style()
def forecasts(
    times: Any,
    values: Any,
    pieces: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    unit: str = "",
    title: str | None = None,
) -> Figure:
    """Plot a series and forecasts of it.

    Parameters
    ----------
    times : array, shape (T + more,)
        Numbers or dates of the steps of the series, and of later steps that are forecast.
    values : array, shape (T,)
        The series; NaN where it is missing.
    pieces : list of (int, dict of str to array)
        Forecasts, with their first steps: "forecast", "naive" (both optional) and quantiles by their levels as text,
        (H,) each. The area between the lowest and the highest quantile is shaded.
    unit : str
        Label of the vertical axis.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If arrays do not match.

    See Also
    --------
    rnnx.analysis.forecast, rnnx.analysis.backtest, save

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.plots import forecasts
    >>> times = np.arange("2024-01-01", "2024-01-13", dtype="datetime64[D]")
    >>> piece = {"forecast": np.full(2, 9.0), "0.1": np.full(2, 7.0), "0.9": np.full(2, 11.0)}
    >>> figure = forecasts(times, np.arange(10.0), [(10, piece)], unit="load (MW)")
    >>> figure.axes[0].get_ylabel()
    'load (MW)'
    """
    series, at = style.to_numpy("values", values), np.asarray(times)
    if series.ndim != 1 or at.ndim != 1 or len(at) < len(series):
        raise ValueError(f"`values` and `times` must have shape (T,) and (T + more,); got {series.shape}, {at.shape}")
    figure = style.new_figure(8.0, 3.6, title or "Forecast")
    axes = figure.subplots()
    handles: dict[str, Any] = {"series": axes.plot(at[: len(series)], series, color=style.BLACK, lw=1.1)[0]}
    for k, (start, piece) in enumerate(pieces):
        arrays = style.all_to_numpy(f"pieces[{k}]", piece, f"pieces[{k}][{{!r}}]")
        steps = at[start : start + len(next(iter(arrays.values())))]
        for name, array in arrays.items():
            check_shape(f"pieces[{k}][{name!r}]", array, "(H,)", steps.shape)
        levels = sorted((name for name in arrays if name not in ("forecast", "naive")), key=float)
        if len(levels) > 1:
            low, high = arrays[levels[0]], arrays[levels[-1]]
            shade = axes.fill_between(steps, low, high, color=style.BLUE, alpha=0.25, lw=0)
            handles[f"quantiles {levels[0]} to {levels[-1]}"] = shade
        if "naive" in arrays:
            line = axes.plot(steps, arrays["naive"], color=style.ORANGE, ls="--", lw=1.0)[0]
            handles["seasonal naive"] = line
        if "forecast" in arrays:
            marker = "o" if len(steps) == 1 else None
            handles["forecast"] = axes.plot(steps, arrays["forecast"], color=style.BLUE, marker=marker, ms=3)[0]
    axes.set_ylabel(printable(unit), parse_math=False)
    axes.grid(True)
    axes.margins(x=0.01)
    style.add_legend(figure, [*handles.values()], [*handles])
    return figure


@style.style()
def confusion_matrix(targets: Any, predictions: Any, classes: Sequence[Any], *, title: str | None = None) -> Figure:
    """Plot how often each class was predicted, with one row per true class.

    Parameters
    ----------
    targets, predictions : array of int, shape (n,)
        Class indices.
    classes : list
        The names of the classes.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure
        Colors show fractions of a row, numbers show counts.

    Raises
    ------
    ValueError
        If the arrays differ in shape, or an index is out of range.

    See Also
    --------
    rnnx.metrics.f1_score, save

    Examples
    --------
    >>> from rnnx.plots import confusion_matrix
    >>> figure = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], classes=["walk", "run"])
    >>> [text.get_text() for text in figure.axes[0].texts]  # row by row, without zeros
    ['1', '1', '2']
    """
    wanted, found = (np.asarray(a) for a in (targets, predictions))
    check_shape("predictions", found, "(n,)", wanted.shape)
    for name, array in (("targets", wanted), ("predictions", found)):
        check_indices(name, array, "classes", len(classes))
    n = len(classes)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (wanted, found), 1)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(2.2, 0.55 * n), 9.0)
    figure = style.new_figure(size + 1.6, size + 1.0, title or "Confusion matrix")
    axes = figure.subplots()
    image = axes.imshow(parts, cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts) if n <= _MOST_NUMBERS else ():
        if count:
            axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color="wk"[int(parts[i, j] > 0.6)])
    labels = [printable(str(name)) for name in classes]
    axes.set_xticks(range(n), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(n), labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    style.add_color_bar(figure, image, axes, "fraction of the true class")
    return figure
