"""What all pictures share: fonts, colours, the figure, visible characters, files."""

import io
import math
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from rnnx._core import arrays as ns
from rnnx._core.files import write_atomically

# M. Okabe, K. Ito, "Color universal design" (2008): told apart with any kind of colour vision. No yellow: it is too
# light for a line.
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#000000",
)
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
LINES = ("-", "--", "-.", ":")
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
DPI = 110

STYLE: Any = {
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "savefig.bbox": None,
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.titlesize": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "agg.path.chunksize": 10000,  # a noisy curve of many steps is too much for one path
    "svg.hashsalt": "rnnx",  # the same picture is the same file
    "svg.fonttype": "path",
    "text.usetex": False,
}
FORMATS = (".png", ".svg")
_VISIBLE = {"\n": "↵", " ": "␣", "\t": "⇥"}
BLANKS = frozenset(_VISIBLE.values())


class Picture(Figure):
    """A figure that keeps the style of this package when it is drawn, and shows itself in a notebook."""

    def draw(self, renderer: Any) -> None:
        """Draw; ticks are made only now, so the style has to hold here."""
        with style():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return to_bytes(self, ".png")


def style() -> Any:
    """The context in which a figure is made and drawn."""
    return matplotlib.rc_context(STYLE)


def new_figure(width: float, height: float) -> Picture:
    """An empty figure, in inches, whose parts are laid out without overlaps."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the file is either the old one or, whole, the new one.

    The same figure gives the same file, byte for byte.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : str or Path
        Ends in ``.png`` or ``.svg``.

    Raises
    ------
    ValueError
        For another ending.
    OSError
        If it cannot be written.
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"`figure` must be a matplotlib Figure; got {type(figure).__name__}")
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"`path` must end in {' or '.join(FORMATS)}; got {str(path)!r}")
    write_atomically(path, to_bytes(figure, suffix))


def to_bytes(figure: Figure, suffix: str) -> bytes:
    """The contents of a file of this kind, without a date and without the version of the program."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}}
    if suffix == ".png":
        options = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    with style():
        figure.savefig(buffer, format=suffix[1:], **options)
    return buffer.getvalue()


def to_numpy(name: str, values: Any) -> np.ndarray:
    """Numbers of any library, or a list of them, as a float64 array on the host."""
    if isinstance(values, list | tuple):
        values = np.asarray(values)
    ns.common_namespace({name: values})
    values = ns.to_host(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must hold real numbers; got dtype {values.dtype}")
    return values.astype(np.float64)


def fonts(monospace: bool = False) -> list[str]:
    """The families to write text with, the user's own included: matplotlib takes the first that has a glyph."""
    families = [str(family) for family in matplotlib.rcParams["font.family"]]
    return ["monospace", *families] if monospace else families


def visible(characters: Iterable[str], monospace: bool = True) -> list[str]:
    """Every character as something that can be seen: blanks as symbols, what the fonts lack as an escape."""
    known = _known(monospace)
    return ["".join(_VISIBLE.get(c) or _printable(c, known) for c in token) for token in characters]


def printable(text: str) -> str:
    """A name or title, with escapes for what the fonts lack."""
    known = _known(False)
    return "".join(c if c == " " else _printable(c, known) for c in text)


def _printable(character: str, known: frozenset[int]) -> str:
    # Marks would sit on their neighbour; controls, surrogates and other blanks would not be seen.
    if ord(character) in known and unicodedata.category(character)[0] not in "CMZ":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _known(monospace: bool) -> frozenset[int]:
    files = []
    for family in fonts(monospace):
        properties = font_manager.FontProperties(family=[family])
        try:
            files.append(font_manager.findfont(properties, fallback_to_default=False))
        except ValueError:  # no such font here
            continue
    return frozenset().union(*map(_code_points, files or [font_manager.findfont("DejaVu Sans")]))


@lru_cache(maxsize=16)
def _code_points(path: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(path).get_charmap())


def set_title(axes: Axes, title: str, **options: Any) -> None:
    """A title taken literally: a dollar sign in it begins no formula."""
    axes.set_title(printable(title), parse_math=False, **options)


def set_suptitle(figure: Figure, title: str) -> None:
    """A title of the whole figure, at its left, taken literally."""
    figure.suptitle(printable(title), x=0.01, ha="left", parse_math=False)


def add_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend below the axes, where it covers no data. Names are taken literally."""
    labels = [printable(name) for name in names]
    columns = max(1, min(len(labels), int(10 * figure.get_figwidth()) // (max(map(len, labels)) + 8)))
    legend = figure.legend(handles, [" "] * len(labels), loc="outside lower center", ncols=columns, handlelength=2.6)
    for text, label in zip(legend.get_texts(), labels, strict=True):  # here: matplotlib would hide a name like "_run"
        text.set_parse_math(False)
        text.set_text(label)


def step_axis(axes: Axes) -> None:
    """Whole numbers on the horizontal axis, and hardly a margin."""
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))


def log_axis(axes: Axes, values: Iterable[np.ndarray]) -> None:
    """A logarithmic axis around the positive values, with plain numbers: 1, 2 and 5 of every decade if there are few.

    Without a positive value it stays linear.
    """
    logs = np.log10([v for array in values for v in array if 0 < v < math.inf])
    if not len(logs):
        return
    low, high = logs.min(), logs.max()
    margin = 0.05 * (high - low) or 0.1
    axes.set_ylim(10.0 ** max(low - margin, -307), 10.0 ** min(high + margin, 308))
    axes.set_yscale("log")
    every = max(1, math.ceil((high - low) / 6))
    digits = (1, 2, 5) if high - low < 1.5 else (1,)
    first = math.floor(low / every) * every
    ticks = [digit * 10.0**n for n in range(first, math.ceil(high) + 1, every) if -308 < n < 308 for digit in digits]
    bottom, top = axes.get_ylim()
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= top])
    axes.yaxis.set_minor_locator(NullLocator())
    powers = high - low > 4
    axes.yaxis.set_major_formatter(lambda v, _: f"$10^{{{round(math.log10(v))}}}$" if powers else f"{v:g}")


def add_colour_bar(figure: Figure, mappable: Any, axes: Axes, **options: Any) -> Any:
    """A slim scale at the right of the axes."""
    bar = figure.colorbar(mappable, ax=axes, pad=0.01, **{"fraction": 0.03, **options})
    bar.ax.tick_params(labelsize=7, length=2)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    outline: Any = bar.outline
    outline.set_visible(False)
    return bar


def label_ticks(axis: Any, places: Sequence[float], characters: Sequence[str], rotate: bool) -> None:
    """Characters as tick labels; escapes, which are long, stand upright on a horizontal axis."""
    labels = visible(characters)
    axis.set_ticks(places, labels, fontfamily=fonts(True), parse_math=False)
    for label, text in zip(axis.get_ticklabels(), labels, strict=True):
        if rotate and len(text) > 1:
            label.set_rotation(90)
