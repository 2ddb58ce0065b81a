"""Draw optimizer_paths.svg: the path of every optimizer of rnnx.optim down the same narrow valley.

``python docs/pictures/optimizer_paths.py [FILE]``; the output is reproducible for given library versions.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from rnnx.optim import SGD, Adam, AdamW, Momentum, RMSProp

STEPS = 60
CURVATURE = np.array([1.0, 40.0])  # the valley is 40 times as steep across as along
LOWEST, START = np.array([4.0, 1.0]), np.array([-5.0, 2.0])
PATHS: list[tuple[str, str, str, Any]] = [
    ("SGD", "learning rate 0.045", "#1f5fa8", SGD(0.045)),
    ("Momentum", "learning rate 0.01, momentum 0.9", "#c8501e", Momentum(0.01)),
    ("Nesterov", "learning rate 0.01, momentum 0.9", "#8a5a00", Momentum(0.01, nesterov=True)),
    ("RMSProp", "learning rate 0.2, alpha 0.9", "#2b7a3f", RMSProp(0.2, alpha=0.9)),
    ("Adam", "learning rate 0.3", "#7b3fa0", Adam(0.3)),
    ("AdamW", "learning rate 0.3, weight decay 0.1", "#b3246e", AdamW(0.3, weight_decay=0.1)),
]


def loss(w: np.ndarray) -> np.ndarray:
    """Return the height of the valley at the points w, of shape (2, n)."""
    return CURVATURE / 2 @ (w - LOWEST[:, None]) ** 2


def path(optimizer: Any) -> np.ndarray:
    """Return the path of an optimizer, of shape (2, STEPS + 1)."""
    parameters = {"w": START.copy()}
    state, places = optimizer.init(parameters), [START]
    for t in range(1, STEPS + 1):
        grads = {"dw": CURVATURE * (parameters["w"] - LOWEST)}
        parameters, state = optimizer.update(parameters, grads, state, t)
        places.append(parameters["w"])
    return np.stack(places, axis=1)


def figure() -> Figure:
    """Draw a map for each optimizer, and all losses below the maps."""
    fig = Figure(figsize=(8.2, 8.6), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(4, 2, height_ratios=[1, 1, 1, 1.7])
    losses = fig.add_subplot(grid[3, :])
    for i, (name, settings, color, optimizer) in enumerate(PATHS):
        places = path(optimizer)
        ax = fig.add_subplot(grid[i // 2, i % 2])
        _valley(ax, named=i == 0)
        ax.plot(*places, color=color, linewidth=1.2, marker="o", markersize=2.4)
        ax.set_title(name, loc="left", fontsize=10, fontweight="bold", color=color)
        ax.set_title(settings, loc="right", fontsize=8.5, color="#444444")
        losses.semilogy(loss(places), color=color, label=name, linestyle="--" if name in ("Nesterov", "AdamW") else "-")
    losses.set_xlim(0, STEPS)
    losses.set_ylim(1e-4, 2e2)
    losses.set_xlabel("step", fontsize=9)
    losses.set_ylabel("height above the lowest point", fontsize=9)
    losses.grid(color="#e4e4e4", linewidth=0.6)
    losses.tick_params(labelsize=8)
    losses.legend(fontsize=8.5, frameon=False, ncols=len(PATHS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for side in ("top", "right"):
        losses.spines[side].set_visible(False)
    return fig


def _valley(ax: Axes, named: bool) -> None:
    """Draw contour lines, and the start, the lowest point and the origin, named on the first map."""
    for height in np.geomspace(0.5, 120, 9):
        width, breadth = 2 * np.sqrt(2 * height / CURVATURE)
        ax.add_patch(Ellipse(tuple(LOWEST), width, breadth, fill=False, edgecolor="#c9c9c9", linewidth=0.7))
    ax.set_xlim(-6.2, 7.2)
    ax.set_ylim(-0.6, 2.6)
    for place, marker, size, name, shift in (
        (START, "s", 4.5, "start", (7, -2)),
        (LOWEST, "*", 9, "lowest point", (-18, -15)),
        (np.zeros(2), "+", 7, "origin", (7, -3)),
    ):
        ax.plot(*place, marker=marker, color="#222222", markersize=size, linestyle="none", zorder=3)
        if named:
            ax.annotate(name, place, shift, textcoords="offset points", fontsize=8, color="#222222")
    ax.tick_params(labelsize=7.5)


def main(file: str | Path) -> None:
    """Write the figure; the suffix of the file sets the format."""
    with mpl.rc_context({"svg.hashsalt": "rnnx", "svg.fonttype": "path"}):
        metadata = {"Date": None, "Creator": "rnnx"} if str(file).endswith(".svg") else {}
        figure().savefig(file, dpi=110, metadata=metadata)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
