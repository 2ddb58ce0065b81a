"""Gradient norms over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnx.plots import style


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
        Zero norms, from gradients that underflowed, are omitted.

    Raises
    ------
    ValueError
        If there is no curve, or a curve is empty, not one-dimensional, or negative.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError("`curves` must be a dict of at least one array of norms")
    arrays = {name: _checked(name, values) for name, values in curves.items()}
    with style.style():
        figure = style.new_figure(7.5, 4.0)
        axes = figure.subplots()
        handles = []
        for k, values in enumerate(arrays.values()):
            line = axes.plot(
                np.arange(len(values)),
                np.where(values > 0, values, np.nan),
                color=style.COLORS[k % len(style.COLORS)],
                ls=style.LINES[k % len(style.LINES)],
                marker="o" if len(values) == 1 else None,
            )
            handles += line
        style.log_axis(axes, arrays.values())
        axes.grid(True)
        style.step_axis(axes)
        axes.set_xlabel("time step t  (the loss is at the right end)")
        axes.set_ylabel("norm of ∂loss / ∂(state after step t)")
        style.set_suptitle(figure, title or "Gradient norms over time")
        style.add_legend(figure, handles, list(arrays))
    return figure


def _checked(name: str, values: Any) -> np.ndarray:
    what = f"curves[{name!r}]"
    array = style.to_numpy(what, values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"`{what}` must have shape (T + 1,); got {array.shape}")
    if (array < 0).any():
        raise ValueError(f"`{what}` must not be negative; got {array.min()}")
    return array
