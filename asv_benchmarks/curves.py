"""How the cost of forward and backward grows with T_x and m. ``python curves.py [FIGURE]``. Not run by asv.

LSTM, float32, n_x = 64, n_a = 128. The table shows milliseconds, and microseconds per example and step, which should
fall to a constant without jumps.
"""

import sys

from peer_sides import Rnnx
from shared import median_ms, versions

LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 48, 64, 65, 96, 128, 192, 256)


def measure():
    """Return [(title, [(count, milliseconds, microseconds per example and step)])]."""
    curves = []
    for title, sizes in (
        ("steps, m = 32", [(T, (64, 128, 32, T)) for T in LENGTHS]),
        ("examples, T_x = 50", [(m, (64, 128, m, 50)) for m in BATCHES]),
    ):
        points = []
        for count, size in sizes:
            ms = median_ms(Rnnx("lstm", "float32", size).step)
            points.append((count, ms, 1e3 * ms / size[2] / size[3]))
        curves.append((title, points))
    return curves


def draw(curves, target):
    """Plot both curves on logarithmic axes, each with a straight line through its largest size."""
    from rnnx import plots
    from rnnx.plots import style

    with style.style():
        figure = style.new_figure(9, 3.5)
        all_axes = figure.subplots(1, 2, sharey=True)
        for axes, (title, points) in zip(all_axes, curves, strict=True):
            counts, times = [p[0] for p in points], [p[1] for p in points]
            axes.plot(counts, [times[-1] * c / counts[-1] for c in counts], color="lightgray", label="linear")
            axes.plot(counts, times, marker="o", markersize=4, linewidth=1, label="train step")
            axes.set(xscale="log", yscale="log", xlabel=title)
        all_axes[0].set_ylabel("milliseconds")
        all_axes[0].legend()
    plots.save(figure, target)


def main():
    curves = measure()
    print(versions())
    for title, points in curves:
        print(f"\n| {title} | " + " | ".join(str(p[0]) for p in points) + " |")
        print("|---" * (len(points) + 1) + "|")
        print("| ms | " + " | ".join(f"{p[1]:.3g}" for p in points) + " |")
        print("| us per example and step | " + " | ".join(f"{p[2]:.2f}" for p in points) + " |")
    if len(sys.argv) > 1:
        draw(curves, sys.argv[1])


if __name__ == "__main__":
    main()
