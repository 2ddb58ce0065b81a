"""Draw activations.svg: the four activation functions and their derivatives, computed by rnnx.

``python docs/pictures/activations.py [FILE]``; the output is reproducible for given library versions.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import rnnx

VALUE, SLOPE, OTHER = "#1f5fa8", "#c8501e", "#6b6b6b"
SLOPES = {
    "sigmoid": (rnnx.sigmoid, rnnx.sigmoid_backward, r"$y=\sigma(x)$", r"$y-y^2$"),
    "tanh": (rnnx.tanh, rnnx.tanh_backward, r"$y=\tanh(x)$", r"$1-y^2$"),
    "relu": (rnnx.relu, rnnx.relu_backward, r"$y=\max(x,0)$", r"$1$ where $y>0$"),
}


def figure() -> Figure:
    """Draw four panels: sigmoid, tanh, relu, and softmax of three classes."""
    fig = Figure(figsize=(7.6, 5.8), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(2, 2).ravel()
    x = np.linspace(-6, 6, 481)  # an even number of intervals, so that 0 is one of the points
    for ax, (name, (forward, backward, value, slope)) in zip(axes, SLOPES.items(), strict=False):
        y = forward(x)
        ax.plot(x, y, color=VALUE, label=value)
        ax.plot(x, backward(np.ones_like(y), y), color=SLOPE, linestyle="--", label=slope)
        _dress(ax, name)
    axes[2].set_ylim(-0.3, 3.3)
    _softmax(axes[3], x)
    for ax in axes:
        ax.legend(fontsize=8, loc="upper left", frameon=False, ncols=len(ax.lines) // 2)
    return fig


def _softmax(ax: Axes, x: np.ndarray) -> None:
    """Draw the probabilities of three classes with logits (x, 0, 1), and the slope of the first."""
    y = rnnx.softmax(np.stack([x, np.zeros_like(x), np.ones_like(x)]))
    first = np.zeros_like(y)
    first[0] = 1
    ax.plot(x, y[0], color=VALUE, label="$y_1$, of logit $x$")
    ax.plot(x, y[1], color=OTHER, linewidth=1, label="$y_2$, of logit 0")
    ax.plot(x, y[2], color=OTHER, linewidth=1, linestyle=":", label="$y_3$, of logit 1")
    ax.plot(
        x, rnnx.softmax_backward(first, y)[0], color=SLOPE, linestyle="--", label=r"$\partial y_1/\partial x=y_1-y_1^2$"
    )
    ax.set_ylim(-0.05, 1.35)  # space for the legend
    _dress(ax, "softmax of (x, 0, 1)")


def _dress(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("x", fontsize=9)
    ax.set_xlim(-6, 6)
    ax.tick_params(labelsize=8)
    ax.grid(color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def main(path: str | Path) -> None:
    """Write the figure; the suffix of the path sets the format."""
    settings = {"svg.hashsalt": "rnnx", "svg.fonttype": "path", "mathtext.fontset": "dejavusans"}
    with mpl.rc_context(settings):
        fig = figure()
        metadata = {"Date": None, "Creator": "rnnx"} if str(path).endswith(".svg") else {}
        fig.savefig(path, dpi=110, metadata=metadata)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
