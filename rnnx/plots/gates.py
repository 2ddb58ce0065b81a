"""Heat maps of gates and states over the characters of a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnnx._core import checks
from rnnx.plots import characters, style, unit_values


@style.style()
def gate_activations(
    values: Any,
    text: Sequence[str] | None = None,
    *,
    units: Sequence[int] | None = None,
    n_units: int = 12,
    example: int = 0,
    start: int = 0,
    max_steps: int = 72,
    title: str | None = None,
) -> Figure:
    """Plot heat maps of all gates and states of some units over the characters of a text.

    Parameters
    ----------
    values : Caches, or dict of str to array, shape (n_a, m, T) or (n_a, T)
        The result of a forward function or of a function in `rnnx.analysis`.
    text : str or sequence of str, optional
        The T input characters. By default the steps are numbered.
    units : sequence of int, optional
        The rows, from top to bottom. Default: the `n_units` units whose hidden state varies most over the text, in
        ascending order.
    n_units : int
    example : int
        Index of the example, below m.
    start, max_steps : int
        First step and maximum number of steps to show.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure
        One panel per gate and state. Values from 0 to 1 use a sequential color map, signed values a diverging one that
        is white at 0.

    Raises
    ------
    ValueError
        If the text does not match the values, or a unit, an example or a step is out of range.

    See Also
    --------
    rnnx.analysis.gate_values, text_activation, save

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0)
    >>> x = np.random.default_rng(0).standard_normal((3, 2, 7))
    >>> _, _, _, caches = rnnx.lstm_forward(x, None, parameters)
    >>> figure = rnnx.plots.gate_activations(caches, "example", units=[0, 3], example=1)
    >>> [axes.get_title(loc="left") for axes in figure.axes][:2]
    ['forget gate $f_t$', 'input gate $i_t$']
    """
    arrays = unit_values.arrays(values, example)
    n_a, n_steps = next(iter(arrays.values())).shape
    if text is not None:
        characters.check_length("text", text, n_steps)
    checks.integer("max_steps", max_steps)
    checks.integer("start", start, 0, n_steps - 1)
    stop = min(start + max_steps, n_steps)
    arrays = {name: array[:, start:stop] for name, array in arrays.items()}
    if units is None:
        rows = unit_values.most_varied(arrays, n_units)
    else:
        rows = [checks.integer("units", unit, 0, n_a - 1) for unit in units]
    if not rows:
        raise ValueError("`units` must contain at least one unit")
    size = max(4.5, 1.4 + 0.115 * (stop - start)), 0.7 + max(0.7, 0.11 * len(rows) + 0.32) * len(arrays)
    part = f", steps {start} to {stop - 1} of {n_steps}" if stop - start < n_steps else ""
    figure = style.new_figure(*size, (title or "Gates and states") + part)
    panels = figure.subplots(len(arrays), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, array) in zip(panels, arrays.items(), strict=True):
        _draw_panel(figure, axes, name, array[rows], rows)
    if text is None:
        panels[-1].set_xlabel("step")
        style.step_axis(panels[-1])
        panels[-1].xaxis.set_major_formatter(lambda place, _: f"{start + place:.0f}")
    else:
        characters.label_ticks(panels[-1].xaxis, text[start:stop])
        panels[-1].tick_params(axis="x", length=0, pad=1)
    return figure


def _draw_panel(figure: Figure, axes: Axes, name: str, array: np.ndarray, rows: Sequence[int]) -> None:
    """Draw one heat map with its color bar."""
    cmap, low, high = unit_values.scale(name, array)
    image = axes.imshow(array, aspect="auto", cmap=cmap, vmin=low, vmax=high)
    every = -(-len(rows) // 12)
    axes.set_yticks(range(0, len(rows), every), [str(unit) for unit in rows[::every]], fontsize=6)
    axes.tick_params(axis="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("unit", fontsize=8)
    axes.set_label(name)
    axes.set_title(unit_values.describe(name))
    bar = style.add_color_bar(figure, image, axes, unit_values.symbol(name), aspect=max(6, len(rows)))
    bar.set_ticks([low, (low + high) / 2, high] if low < 0 else [low, high])
