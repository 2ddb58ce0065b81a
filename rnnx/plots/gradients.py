"""Gradient norms over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnx.plots import style


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
        Zero norms, from gradients that underflowed, are omitted.

    Raises
    ------
    ValueError
        If there is no curve, or a curve is empty, not one-dimensional, or negative.
    """
    arrays = style.all_to_numpy("curves", curves, "curves[{!r}]")
    for name, norms in arrays.items():
        if norms.ndim != 1 or not len(norms):
            raise ValueError(f"`curves[{name!r}]` must be a non-empty array of shape (T + 1,); got shape {norms.shape}")
        if (norms < 0).any():
            raise ValueError(f"`curves[{name!r}]` must not be negative; got {norms.min()}")
    figure = style.new_figure(7.5, 4.0, title or "Gradient norms over time")
    axes = figure.subplots()
    for k, norms in enumerate(arrays.values()):
        axes.plot(
            np.where(norms > 0, norms, np.nan),
            color=style.COLORS[k % len(style.COLORS)],
            ls=style.LINES[k % len(style.LINES)],
            marker="o" if len(norms) == 1 else None,
        )
    style.log_axis(axes, arrays.values())
    axes.grid(True)
    style.step_axis(axes)
    axes.set(xlabel="time step t  (the loss is at the right end)", ylabel="norm of ∂loss / ∂(state after step t)")
    style.add_legend(figure, axes.lines, list(arrays))
    return figure
