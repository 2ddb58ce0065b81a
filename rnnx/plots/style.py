"""What all figures share: colors, fonts, axes, legends, files. `rnnx.compare` uses it too."""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.files import write_atomically
from rnnx.plots.characters import printable

# M. Okabe, K. Ito, "Color universal design" (2008), without its yellow, which is too light for a line:
# distinguishable with any kind of color vision.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK = COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000"),
)
LINES = ("-", "--", "-.", ":")
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
SCREEN_DPI, DPI = 110, 200  # in notebooks, and in files

STYLE: Any = {
    "figure.dpi": SCREEN_DPI,
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
    "agg.path.chunksize": 10000,  # a long noisy curve exceeds the limits of one path
    "svg.hashsalt": "rnnx",  # the same figure gives the same file
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # text stays text
    "text.usetex": False,
}
DPI_RANGE = (10, 2400)
FORMATS = (".png", ".svg", ".pdf")
_NO_ORIGIN = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Create and draw figures in the style of this package, as a context manager or as a decorator."""
    with matplotlib.rc_context(STYLE):
        yield


class Picture(Figure):
    """A figure that is drawn in the style of this package and shown by notebooks."""

    @style()  # also here, because matplotlib creates ticks only when drawing
    def draw(self, renderer: Any) -> None:
        """Draw in the style."""
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return to_bytes(self, ".png", SCREEN_DPI)


def new_figure(width: float, height: float, title: str = "") -> Picture:
    """Make an empty figure of this size in inches, with a layout that avoids overlaps. The title appears verbatim."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        add_title(figure, printable(title), parse_math=False)
    return figure


def add_title(figure: Figure, title: str, **options: Any) -> None:
    """Add a title at the left."""
    figure.suptitle(title, x=0.01, ha="left", **options)


def save(figure: Figure, path: str | Path, *, dpi: int = DPI) -> None:
    """Write a figure to a file, atomically. The same figure always gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : str or Path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    dpi : int
        Dots per inch of a PNG file, and of the heat maps in the others.

    Raises
    ------
    ValueError
        If `path` has another extension, or `dpi` is not from 10 to 2400.
    OSError
        If the file cannot be written.

    See Also
    --------
    plot_run

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.plots import confusion_matrix, save
    >>> figure = confusion_matrix([0, 1], [0, 1], classes=["walk", "run"])
    >>> save(figure, "confusion.pdf")  # for print
    >>> Path("confusion.pdf").read_bytes()[:4]
    b'%PDF'
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"`figure` must be a matplotlib Figure; got {type(figure).__name__}")
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"`path` must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; got {str(path)!r}")
    write_atomically(path, to_bytes(figure, suffix, checks.integer("dpi", dpi, *DPI_RANGE)))


@style()
def to_bytes(figure: Figure, suffix: str, dpi: int) -> bytes:
    """Encode a figure as PNG, SVG or PDF, without a date or a program version."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"pil_kwargs": {"optimize": True}} if suffix == ".png" else {}
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_NO_ORIGIN[suffix], **options)
    return buffer.getvalue()


def to_numpy(name: str, values: Any) -> np.ndarray:
    """Convert numbers of any array library, or a list of numbers, to a float64 NumPy array."""
    if isinstance(values, list | tuple):
        values = np.asarray(values)
    ns.common_namespace({name: values})
    values = ns.to_host(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must contain real numbers; got dtype {values.dtype}")
    return values.astype(np.float64)


def all_to_numpy(name: str, arrays: Any, pattern: str = "{}") -> dict[str, np.ndarray]:
    """Convert a non-empty dict of arrays; `pattern` makes a key the name of its array in messages."""
    if not isinstance(arrays, Mapping) or not arrays:
        raise ValueError(f"`{name}` must be a non-empty dict of arrays; got {type(arrays).__name__}")
    return {key: to_numpy(pattern.format(key), values) for key, values in arrays.items()}


def verbatim(text: str) -> str:
    """Escape a name that stands beside formulas: a dollar sign in it does not start one."""
    return printable(text).replace("$", r"\$")


def add_legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend below the axes, where it covers no data. Names appear verbatim."""
    labels = [printable(name) for name in names]
    columns = max(1, min(len(labels), int(10 * figure.get_figwidth()) // (max(map(len, labels)) + 8)))
    legend = figure.legend(handles, [" "] * len(labels), loc="outside lower center", ncols=columns, handlelength=2.6)
    for text, label in zip(legend.get_texts(), labels, strict=True):  # set here: matplotlib hides names like "_run"
        text.set_parse_math(False)
        text.set_text(label)


def step_axis(axes: Axes) -> None:
    """Use integer ticks and a small margin on the horizontal axis."""
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True))


def log_axis(axes: Axes, values: Iterable[np.ndarray]) -> float:
    """Make the vertical axis logarithmic around the positive values, with plain numbers as tick labels.

    A short range has ticks at 1, 2 and 5 of every decade. Without positive values the axis stays linear.

    Returns
    -------
    float
        The place of zeros, if there are any: below all other values, with a dotted line and the label 0.
    """
    numbers = np.concatenate([np.ravel(array) for array in values])
    logs = np.log10(numbers[(numbers > 0) & (numbers < math.inf)])
    if not len(logs):
        return 0.0
    low, high = logs.min(), logs.max()
    margin = 0.05 * (high - low) or 0.1
    zero = 10.0 ** max(low - 4 * margin, -306) if (numbers == 0).any() else 0.0
    axes.set_ylim(zero / 10.0**margin if zero else 10.0 ** max(low - margin, -307), 10.0 ** min(high + margin, 308))
    axes.set_yscale("log")
    every = max(1, math.ceil((high - low) / 6))
    digits = (1, 2, 5) if high - low < 1.5 else (1,)
    first = math.floor(low / every) * every
    ticks = [digit * 10.0**n for n in range(first, math.ceil(high) + 1, every) if -308 < n < 308 for digit in digits]
    bottom, top = axes.get_ylim()
    least = max(bottom, 10.0 ** (low - margin))
    axes.set_yticks([*([zero] if zero else []), *(tick for tick in ticks if least <= tick <= top)])
    axes.yaxis.set_minor_locator(NullLocator())
    powers = high - low > 4
    axes.yaxis.set_major_formatter(lambda v, _: _number(v, powers) if v > zero else "0")
    if zero:
        axes.axhline(zero, color="0.6", lw=0.8, ls=":", zorder=0)
    return zero


def _number(value: float, power: bool) -> str:
    return f"$10^{{{round(math.log10(value))}}}$" if power else f"{value:g}"


def add_color_bar(figure: Figure, mappable: Any, axes: Axes, label: str, **options: Any) -> Any:
    """Add a slim color bar to the right of the axes, with a label."""
    bar = figure.colorbar(mappable, ax=axes, pad=0.01, fraction=0.03, **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    outline: Any = bar.outline
    outline.set_visible(False)
    return bar
