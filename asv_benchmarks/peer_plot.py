"""A plot of the ratios that `peers.py` has measured. Not run by asv."""

import json

from shared import flops

_NAMES = {"lstm": "LSTM", "gru": "GRU", "gru_reset_after": "GRU (reset after)", "rnn": "RNN"}


def draw(source, target):
    """Plot the ratio over the size, with one line per table."""
    from rnnx import plots
    from rnnx.plots import style

    with open(source) as file:
        tables = [t for t in json.load(file) if t["job"] in ("step", "inference") and t["ratios"].get("torch")]
    with style.style():
        figure = style.new_figure(8, 4.5)
        axes = figure.subplots()
        for table in tables:
            points = sorted(
                (flops(table["job"], table["cell"], json.loads(f"[{size[1:-1]}]")) / 1e6, ratio)
                for size, ratio in table["ratios"]["torch"].items()
            )
            label = f"{_NAMES[table['cell']]}, {table['job']}, {table['dtype']}"
            label += ", one thread" if table.get("threads") == "one" else ""
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=label)
        axes.axhline(1, color="gray", linewidth=1)
        axes.set(xscale="log", yscale="log", ylabel="time of torch / time of rnnx")
        axes.set_xlabel("million floating-point operations")
        axes.set_yticks(ticks := [0.8, 1, 1.5, 2, 3, 5, 10, 20, 30], labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.legend()
    plots.save(figure, target)
