"""A text coloured by what one unit did while it read it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rnnx.functional.caches import Caches
from rnnx.plots import style, unit_values


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
    """A text whose characters are coloured by what one unit did while it read them.

    Source of the picture: A. Karpathy, J. Johnson, L. Fei-Fei, "Visualizing and understanding recurrent networks",
    arXiv:1506.02078.

    Parameters
    ----------
    values : Caches, or dict of str to array, shape (n_a, m, T) or (n_a, T), or one such array
        What a forward function returned, or what `rnnx.analysis.inspection` makes of it.
    text : str
        The characters that were read, T of them.
    unit : int, optional
        Default: the one whose hidden state varies most.
    name : str, optional
        Which gate or state; default the last one, c of an LSTM and otherwise a.
    example : int
        Which of the m examples.
    width, max_lines : int
        Longest line, and how many of them are shown. Lines are broken after blanks where they can be.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the text does not fit the values, or the unit, the gate or the example is not there.
    """
    if not isinstance(values, Mapping | Caches | tuple):
        values = {name or "activation": values}
    arrays = unit_values.arrays(values, example)
    name = list(arrays)[-1] if name is None else name
    if name not in arrays:
        raise ValueError(f"`name` must be one of {list(arrays)}; got {name!r}")
    array = arrays[name]
    unit_values.characters(text, array.shape[1])
    for what, size in (("width", width), ("max_lines", max_lines)):
        unit_values.check_positive(what, size)
    unit = unit_values.most_varied(arrays, 1)[0] if unit is None else unit_values.check_units([unit], array.shape[0])[0]
    lines = wrap(text, width)
    hidden = len(text) - sum(map(len, lines[:max_lines]))
    with style.style():
        figure = _draw_text(lines[:max_lines], array[unit], unit_values.scale(name, array[unit]))
        part = f", the first {len(text) - hidden} of {len(text)} characters" if hidden else ""
        what = unit_values.describe(name)
        style.set_suptitle(figure, (title or f"Unit {unit}, {what}") + part)
    return figure


def _draw_text(lines: Sequence[str], values: np.ndarray, scale: tuple[str, float, float]) -> Figure:
    """Every character on a field of its colour."""
    cmap, low, high = scale
    mappable = ScalarMappable(Normalize(low, high), colormaps[cmap])
    labels = [
        [" " if c == " " else label for c, label in zip(line, style.visible(line), strict=True)] for line in lines
    ]
    columns = max(20, *(sum(map(len, line)) for line in labels))
    figure = style.new_figure(0.8 + 0.082 * columns, 0.6 + 0.185 * len(lines))
    axes = figure.subplots()
    fields = np.ones((len(lines), columns, 4))
    ends = np.cumsum([len(line) for line in lines])
    for row, line in enumerate(labels):
        colours = mappable.to_rgba(values[ends[row] - len(line) : ends[row]])
        column = 0
        for label, colour in zip(line, colours, strict=True):
            fields[row, column : column + len(label)] = colour  # an escape takes the room that it needs
            _write(axes, column + (len(label) - 1) / 2, row, label, colour)
            column += len(label)
    axes.imshow(fields, aspect="auto")
    axes.set_axis_off()
    style.add_colour_bar(figure, mappable, axes)
    return figure


def _write(axes: Axes, x: float, y: float, label: str, colour: np.ndarray) -> None:
    """One character, black or white, whichever its field lets us read; blanks only faintly."""
    light = np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5
    axes.text(
        x,
        y,
        label,
        ha="center",
        va="center_baseline",
        fontsize=8,
        fontfamily=style.fonts(True),
        color="black" if light else "white",
        alpha=0.35 if label in style.BLANKS else 1.0,
        parse_math=False,
    )


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters: after a newline, after the last blank of a full line, or within a word."""
    lines = []
    for paragraph in re.findall("[^\n]*\n|[^\n]+", text):
        while len(paragraph) > width:
            at = paragraph.rfind(" ", width // 2, width) + 1 or width
            lines.append(paragraph[:at])
            paragraph = paragraph[at:]
        lines.append(paragraph)
    return lines
