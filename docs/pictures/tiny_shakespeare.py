"""Draw tiny_shakespeare.svg: the losses of two runs of `rnnx train`, beside published ones.

``python docs/pictures/tiny_shakespeare.py RUN RUN [FILE]``; docs/tiny_shakespeare.md has the commands of the two runs.
"""

import csv
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TRAINING, VALIDATION, OTHER = "#1f5fa8", "#c8501e", "#6b6b6b"
PANELS = (  # titles, and published losses of models with so many parameters
    ("the end of each of ten blocks held out, 5 %", ()),
    ("the last tenth held out", ((1.4697, "nanoGPT (10.65 million)"), (1.88, "nanoGPT (0.8 million)"))),
)


def losses(run: Path) -> tuple[list[float], list[float]]:
    """Return the mean training loss and the validation loss of each epoch."""
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [row for row in rows if row["validation_loss"]]
    by_epoch = [[float(row["loss"]) for row in rows if row["epoch"] == end["epoch"]] for end in ends]
    return [sum(one) / len(one) for one in by_epoch], [float(end["validation_loss"]) for end in ends]


def panel(ax: Axes, run: Path, title: str, published: tuple[tuple[float, str], ...]) -> None:
    """Draw the losses of a run over its epochs, and published ones as lines."""
    training, validation = losses(run)
    epochs = range(1, len(training) + 1)
    ax.plot(epochs, training, color=TRAINING, linestyle="--", label="training")
    ax.plot(epochs, validation, color=VALIDATION, label=f"validation, least {min(validation):.3f}")
    for loss, name in published:
        ax.axhline(loss, color=OTHER, linewidth=1, linestyle=":")
        ax.annotate(
            f"{name}: {loss}", (len(training), loss), (0, 3), textcoords="offset points", ha="right", fontsize=7
        )
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("epoch", fontsize=9)
    ax.set_ylim(1.1, 2.2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False, loc="upper right")


def figure(runs: list[Path]) -> Figure:
    """Draw the runs side by side."""
    fig = Figure(figsize=(7.6, 3.2), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, 2, sharey=True)
    for ax, run, (title, published) in zip(axes, runs, PANELS, strict=True):
        panel(ax, run, title, published)
    axes[0].set_ylabel("loss, nats per character", fontsize=9)
    return fig


def main(*arguments: str) -> None:
    """Write the figure of two run folders."""
    runs, rest = [Path(one) for one in arguments[:2]], arguments[2:]
    path = Path(rest[0]) if rest else Path(__file__).parent / "tiny_shakespeare.svg"
    with mpl.rc_context({"svg.hashsalt": "rnnx", "svg.fonttype": "path"}):
        figure(runs).savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
