"""A text colored by the activation of one unit."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rnnx._core import checks
from rnnx.functional.caches import Caches
from rnnx.plots import characters, style, unit_values


def text_activation(
    values: Any,
    text: str,
    unit: int | None = None,
    *,
    name: str | None = None,
    example: int = 0,
    width: int = 72,
    max_lines: int = 24,
    title: str | None = None,
) -> Figure:
    """Plot a text with each character colored by the activation of one unit at its step.

    After A. Karpathy, J. Johnson, L. Fei-Fei, "Visualizing and understanding recurrent networks", arXiv:1506.02078.

    Parameters
    ----------
    values : Caches, or dict of str to array, shape (n_a, m, T) or (n_a, T), or one such array
        The result of a forward function or of a function in `rnnx.analysis`.
    text : str
        The T input characters.
    unit : int, optional
        Default: the unit whose hidden state varies most.
    name : str, optional
        The gate or state. Default: the last one, c for an LSTM and a otherwise.
    example : int
        Index of the example, below m.
    width, max_lines : int
        Maximum length and number of lines. Lines break after spaces where possible.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the text does not match the values, or the unit, the gate or the example does not exist.
    """
    if not isinstance(values, Mapping | Caches | tuple):
        values = {name or "activation": values}
    arrays = unit_values.arrays(values, example)
    name = list(arrays)[-1] if name is None else name
    if name not in arrays:
        raise ValueError(f"`name` must be one of {list(arrays)}; got {name!r}")
    array = arrays[name]
    unit_values.check_text(text, array.shape[1])
    checks.integer("width", width)
    checks.integer("max_lines", max_lines)
    unit = (
        unit_values.most_varied(arrays, 1)[0] if unit is None else checks.integer("unit", unit, 0, array.shape[0] - 1)
    )
    lines = wrap(text, width)
    hidden = len(text) - sum(map(len, lines[:max_lines]))
    with style.style():
        figure = _draw_text(lines[:max_lines], array[unit], unit_values.scale(name, array[unit]))
        part = f", the first {len(text) - hidden} of {len(text)} characters" if hidden else ""
        what = unit_values.describe(name)
        style.set_suptitle(figure, (title or f"Unit {unit}, {what}") + part)
    return figure


def _draw_text(lines: Sequence[str], values: np.ndarray, scale: tuple[str, float, float]) -> Figure:
    """Draw every character on a background of its color."""
    cmap, low, high = scale
    mappable = ScalarMappable(Normalize(low, high), colormaps[cmap])
    labels = [
        [" " if c == " " else label for c, label in zip(line, characters.visible(line), strict=True)] for line in lines
    ]
    columns = max(20, *(sum(map(len, line)) for line in labels))
    figure = style.new_figure(0.8 + 0.082 * columns, 0.6 + 0.185 * len(lines))
    axes = figure.subplots()
    fields = np.ones((len(lines), columns, 4))
    ends = np.cumsum([len(line) for line in lines])
    for row, line in enumerate(labels):
        colors = mappable.to_rgba(values[ends[row] - len(line) : ends[row]])
        column = 0
        for label, color in zip(line, colors, strict=True):
            fields[row, column : column + len(label)] = color  # escapes are several columns wide
            _write(axes, column + (len(label) - 1) / 2, row, label, color)
            column += len(label)
    axes.imshow(fields, aspect="auto")
    axes.set_axis_off()
    style.add_color_bar(figure, mappable, axes)
    return figure


def _write(axes: Axes, x: float, y: float, label: str, color: np.ndarray) -> None:
    """Write one character, black or white depending on its background; white space faintly."""
    light = np.dot(color[:3], (0.299, 0.587, 0.114)) > 0.5
    axes.text(
        x,
        y,
        label,
        ha="center",
        va="center_baseline",
        fontsize=8,
        fontfamily=characters.fonts(True),
        color="black" if light else "white",
        alpha=0.35 if label in characters.BLANKS else 1.0,
        parse_math=False,
    )


def wrap(text: str, width: int) -> list[str]:
    """Split a text into lines of at most `width` characters, after newlines, after spaces, or within words."""
    lines = []
    for paragraph in re.findall("[^\n]*\n|[^\n]+", text):
        while len(paragraph) > width:
            at = paragraph.rfind(" ", width // 2, width) + 1 or width
            lines.append(paragraph[:at])
            paragraph = paragraph[at:]
        lines.append(paragraph)
    return lines
