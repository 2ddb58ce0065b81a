"""Boxes, circles and arrows for the schematic figures, with reproducible output."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon

Point = tuple[float, float]

INK = "#1f2933"
QUIET = "#616e7c"  # remarks
BACK = "#b42318"  # everything that flows backward
BAND = "#f8d0cb"  # behind a line that is the subject of a figure
FILL = {
    "sigmoid": "#cfe3f6",
    "tanh": "#fbe0b5",
    "product": "#e4e7eb",
    "softmax": "#dcefd7",
    "cell": "#f7f8fa",
    "point": "#ffffff",
}
HEAD = 0.16  # length of an arrow head, in data units


class Drawing:
    """A figure of `width` by `height` units, with the origin at the lower left."""

    def __init__(self, width: float, height: float, scale: float = 0.72) -> None:
        self.figure = Figure(figsize=(scale * width, scale * height), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axes.axis("off")

    def text(self, at: Point, label: str, *, size: float = 11, color: str = INK, ha: str = "center") -> None:
        """Draw a label centred on a point, or starting or ending there, depending on `ha`."""
        self.axes.text(*at, label, fontsize=size, color=color, ha=ha, va="center", zorder=5)

    def frame(self, low: Point, high: Point, label: str = "") -> None:
        """Draw the outline of a cell, with its name in the upper left corner."""
        self._rounded(low, high, FILL["cell"], line="#9aa5b1", radius=0.25, zorder=0)
        if label:
            self.text((low[0] + 0.2, high[1] - 0.27), label, size=10, color=QUIET, ha="left")

    def box(self, at: Point, label: str, kind: str, *, width: float = 1.2, height: float = 0.8) -> None:
        """Draw a rounded box centred on a point."""
        low, high = (at[0] - width / 2, at[1] - height / 2), (at[0] + width / 2, at[1] + height / 2)
        self._rounded(low, high, FILL[kind], line=INK, radius=0.12, zorder=3)
        self.text(at, label)

    def point(self, at: Point, symbol: str, color: str = INK) -> None:
        """Draw a pointwise operation: a circle of radius 0.24 with its symbol."""
        self.axes.add_patch(Circle(at, 0.24, facecolor=FILL["point"], edgecolor=color, linewidth=1.3, zorder=3))
        self.text(at, symbol, size=13, color=color)

    def dot(self, at: Point, color: str = INK) -> None:
        """Mark a point where a line branches."""
        self.axes.add_patch(Circle(at, 0.07, color=color, zorder=3))

    def arrow(self, *points: Point, color: str = INK, head: bool = True, width: float = 1.4) -> None:
        """Draw a line through the points; its arrowhead ends exactly at the last one."""
        *_, before, end = points
        line = list(points)
        if head:
            length = ((end[0] - before[0]) ** 2 + (end[1] - before[1]) ** 2) ** 0.5
            along = ((end[0] - before[0]) / length, (end[1] - before[1]) / length)
            base = (end[0] - HEAD * along[0], end[1] - HEAD * along[1])
            side = (-0.45 * HEAD * along[1], 0.45 * HEAD * along[0])
            corners = [end, (base[0] + side[0], base[1] + side[1]), (base[0] - side[0], base[1] - side[1])]
            self.axes.add_patch(Polygon(corners, color=color, linewidth=0, zorder=4))
            line[-1] = base
        self.axes.plot(*zip(*line, strict=True), color=color, linewidth=width, solid_joinstyle="round", zorder=2)

    def band(self, start: Point, end: Point) -> None:
        """Mark a line with a broad band behind it."""
        ends = zip(start, end, strict=True)
        self.axes.plot(*ends, color=BAND, linewidth=18, solid_capstyle="butt", zorder=1)

    def save(self, path: Path) -> None:
        """Write an SVG, or another format by suffix, without a date or random identifiers."""
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
            self.figure.savefig(path, metadata=metadata)

    def _rounded(self, low: Point, high: Point, fill: str, *, line: str, radius: float, zorder: int) -> None:
        style = f"round,pad=0,rounding_size={radius}"
        width, height = high[0] - low[0], high[1] - low[1]
        patch = FancyBboxPatch(low, width, height, boxstyle=style, facecolor=fill, edgecolor=line, zorder=zorder)
        self.axes.add_patch(patch)
