"""A text colored by the activation of one unit."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rnnx._core import checks
from rnnx.functional.caches import Caches
from rnnx.plots import characters, style, unit_values


@style.style()
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
        As for `gate_activations`.
    text : str
        The T input characters.
    unit : int, optional
        Default: the unit whose hidden state varies most.
    name : str, optional
        The gate or state. Default: the last one, c for an LSTM and a otherwise.
    example : int
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

    See Also
    --------
    gate_activations, rnnx.analysis.text_values, save

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.plots import text_activation
    >>> text = 'she said "no" and left'
    >>> inside = np.array([[1.0 if 9 <= t < 12 else -1.0 for t in range(len(text))]])  # a unit that knows of quotes
    >>> figure = text_activation(inside, text, unit=0)
    >>> "".join(character.get_text() for character in figure.axes[0].texts)
    'she said "no" and left'
    """
    if not isinstance(values, Mapping | Caches | tuple):
        values = {name or "activation": values}
    arrays = unit_values.arrays(values, example)
    name = list(arrays)[-1] if name is None else name
    array = arrays[checks.choice("name", name, arrays)]
    characters.check_length("text", text, array.shape[1])
    checks.integer("width", width)
    checks.integer("max_lines", max_lines)
    n_a = array.shape[0]
    unit = unit_values.most_varied(arrays, 1)[0] if unit is None else checks.integer("unit", unit, 0, n_a - 1)
    lines = wrap(text, width)[:max_lines]
    shown = sum(map(len, lines))
    part = f", the first {shown} of {len(text)} characters" if shown < len(text) else ""
    title = (style.verbatim(title) if title else f"Unit {unit}, {unit_values.describe(name)}") + part
    return _draw_text(lines, array[unit], unit_values.scale(name, array[unit]), title, unit_values.symbol(name))


def _draw_text(
    lines: Sequence[str], values: np.ndarray, scale: tuple[str, float, float], title: str, symbol: str
) -> Figure:
    """Draw every character, black or white, on a background of its color."""
    cmap, low, high = scale
    mappable = ScalarMappable(Normalize(low, high), colormaps[cmap])
    labels = [
        [" " if c == " " else label for c, label in zip(line, characters.visible(line), strict=True)] for line in lines
    ]
    columns = max(20, *(sum(map(len, line)) for line in labels))
    figure = style.new_figure(0.9 + 0.082 * columns, 0.6 + 0.185 * len(lines))
    style.add_title(figure, title)
    axes = figure.subplots()
    fields = np.ones((len(lines), columns, 4))
    colors = iter(mappable.to_rgba(values))
    for row, line in enumerate(labels):
        column = 0
        for label in line:
            color = next(colors)
            fields[row, column : column + len(label)] = color  # escapes are several columns wide
            light = np.dot(color[:3], (0.299, 0.587, 0.114)) > 0.5
            axes.text(
                column + (len(label) - 1) / 2,
                row,
                label,
                ha="center",
                va="center_baseline",
                fontsize=8,
                fontfamily=characters.fonts(True),
                color="black" if light else "white",
                alpha=0.35 if label in characters.BLANKS else 1.0,
                parse_math=False,
            )
            column += len(label)
    axes.imshow(fields, aspect="auto")
    axes.set_axis_off()
    style.add_color_bar(figure, mappable, axes, symbol)
    return figure


def wrap(text: str, width: int) -> list[str]:
    """Split a text into lines of about `width` characters, after newlines, after spaces, or within words.

    The newlines after a line, up to `width` of them, stand at its end, and those that open a text before its first
    line, so that no symbol stands alone. No line is a single character that was split off.
    """
    lines = []
    for part in re.findall("\n*[^\n]+\n*|\n+", text):
        while (end := len(part.rstrip("\n"))) > width or len(part) - end > width:
            at = part.rfind(" ", width // 2, width) + 1 or width
            at = max(1, min(at, (end if end > width else len(part)) - 2))
            lines.append(part[:at])
            part = part[at:]
        lines.append(part)
    return lines
