"""Backward through one time step: what is red is a gradient, what is black is a value of the forward pass."""

from cells import TIMES
from drawing import BACK, QUIET, Drawing, Point

SQUARED = "\N{SUPERSCRIPT TWO}"


def rnn_cell_backward() -> Drawing:
    """Draw the gradient going through tanh and the two products of the RNN."""
    d = Drawing(12.8, 8.3)
    row, top, column, branch = 3.7, 6.0, 5.8, 4.8
    d.frame((1.7, 1.8), (11.0, 7.0))
    d.text((1.9, 2.07), "rnn_cell_backward", size=10, color=QUIET, ha="left")
    _gradient(d, (12.0, row), "da_next", "(n_a, m)")
    d.arrow((11.4, row), (10.2, row), color=BACK)
    d.box((8.6, row), f"da_next * (1 - a_next{SQUARED})", "tanh", width=3.2)
    d.text((8.6, row - 0.65), "through tanh", size=10, color=QUIET)
    d.arrow((7.0, row), (column, row), color=BACK, head=False)
    d.text((6.4, row + 0.25), "dz", color=BACK)
    d.dot((column, row), BACK)
    d.arrow((column, row), (4.3, row), color=BACK)
    d.box((3.3, row), "Waa.T @ dz", "product", width=2)
    d.arrow((2.3, row), (1.4, row), color=BACK)
    _gradient(d, (0.8, row), "da_prev", "(n_a, m)")
    d.arrow((column, row), (column, 2.9), color=BACK)
    d.box((column, 2.5), "Wax.T @ dz", "product", width=2)
    d.arrow((column, 2.1), (column, 1.45), color=BACK)
    _gradient(d, (column, 1.2), "dxt", "(n_x, m)")
    d.arrow((column, row), (column, branch), color=BACK, head=False)
    d.dot((column, branch), BACK)
    weights = {
        3.3: ("dz @ a_prev.T", "dWaa", "(n_a, n_a)"),
        column: ("dz @ xt.T", "dWax", "(n_a, n_x)"),
        8.6: ("sum of dz's columns", "dba", "(n_a, 1)"),
    }
    for x, (product, name, shape) in weights.items():
        d.arrow((column, branch), (x, branch), (x, top - 0.4), color=BACK)
        d.box((x, top), product, "product", width=2.7 if name == "dba" else 2)
        d.arrow((x, top + 0.4), (x, 7.35), color=BACK)
        _gradient(d, (x, 7.95), name, shape)
    d.text(
        (6.4, 0.3),
        "red: gradients, from right to left        a_next, a_prev, xt and the weights: from the cache",
        size=10,
        color=QUIET,
    )
    return d


def lstm_cell_backward() -> Drawing:
    """Draw the two gradients that enter a step of the LSTM, through the gates, to all that it returns."""
    d = Drawing(14.8, 10.0)
    top, row, gates = 8.7, 6.1, 4.7
    keep, f, i, cc, o, out = 2.6, 3.8, 5.8, 7.8, 9.7, 11.6
    d.frame((1.6, 1.7), (13.3, 9.7), "lstm_cell_backward")
    _gradient(d, (14.1, top), "dc_next")
    d.arrow((13.55, top), (out + 0.24, top), color=BACK)
    d.point((out, top), "+", BACK)
    d.arrow((out - 0.24, top), (keep + 0.24, top), color=BACK)
    d.text((10.7, top + 0.27), "dc", color=BACK)
    _multiply(d, (keep, top), "ft", "below")
    d.arrow((keep - 0.24, top), (1.35, top), color=BACK)
    _gradient(d, (0.75, top), "dc_prev")
    _gradient(d, (14.1, row), "da_next")
    d.arrow((13.55, row), (o + 0.24, row), color=BACK)
    d.dot((out, row), BACK)
    d.arrow((out, row), (out, row + 0.56), color=BACK)
    _multiply(d, (out, row + 0.8), "ot", "right")
    d.arrow((out, row + 1.04), (out, row + 1.35), color=BACK)
    d.box((out, row + 1.7), f"{TIMES} (1 - tanh{SQUARED}(c_next))", "tanh", width=2.75, height=0.7)
    d.arrow((out, row + 2.05), (out, top - 0.24), color=BACK)
    _multiply(d, (o, row), "tanh(c_next)", "above")
    for x, factor in ((f, "c_prev"), (i, "cct"), (cc, "it")):
        d.dot((x, top), BACK)
        d.arrow((x, top), (x, row + 0.24), color=BACK)
        _multiply(d, (x, row), factor, "left")
    for x, gate in ((f, "ft"), (i, "it"), (cc, "cct"), (o, "ot")):
        d.arrow((x, row - 0.24), (x, gates + 0.4), color=BACK)
        d.text((x + 0.15, row - 0.6), f"d{gate}", color=BACK, ha="left")
        kind, slope = ("tanh", f"(1 - cct{SQUARED})") if gate == "cct" else ("sigmoid", f"{gate} (1 - {gate})")
        d.box((x, gates), f"{TIMES} {slope}", kind, width=1.65)
        d.text((x + 0.15, gates - 0.67), f"dz{gate[0]}", color=BACK, ha="left")
    _lstm_products(d, (f, i, cc, o), gates - 0.4)
    d.text(
        (7.4, 0.3), "red: gradients, from right to left        black: values of the forward pass", size=10, color=QUIET
    )
    return d


def _lstm_products(d: Drawing, columns: tuple[float, ...], start: float) -> None:
    """Draw what becomes of dzf, dzi, dzc and dzo, which come down in four columns."""
    bus, row, end = 3.6, 2.45, 1.4
    for x in columns:
        d.arrow((x, start), (x, bus), color=BACK, head=False)
        d.dot((x, bus), BACK)
    inputs = "Wf.T @ dzf + Wi.T @ dzi\n+ Wc.T @ dzc + Wo.T @ dzo"
    weights, biases = "dzk @ [a_prev; xt].T", "sum of dzk's columns"
    left, *others = boxes = {columns[0]: (inputs, 3.4), columns[2]: (weights, 2.8), 11.4: (biases, 2.8)}
    d.arrow((left, bus), (others[-1], bus), color=BACK, head=False)
    d.text((others[-1] + 0.25, bus + 0.27), "dzk: k = f, i, c, o", size=10, color=BACK)
    for x, (product, width) in boxes.items():
        d.arrow((x, bus), (x, row + 0.45), color=BACK)
        d.box((x, row), product, "product", width=width, height=0.9)
        d.arrow((x, row - 0.45), (x, end), color=BACK)
    d.arrow((left - 1.7, row), (1.35, row), color=BACK)
    _gradient(d, (0.75, row), "da_prev", "first n_a rows")
    _gradient(d, (left, end - 0.25), "dxt", "the other n_x rows")
    _gradient(d, (others[0], end - 0.25), "dWf, dWi, dWc, dWo", "one for each k")
    _gradient(d, (others[1], end - 0.25), "dbf, dbi, dbc, dbo", "one for each k")


def _gradient(d: Drawing, at: Point, name: str, remark: str = "") -> None:
    """Write the name of a gradient, and its shape or another remark below it."""
    d.text(at, name, color=BACK)
    d.text((at[0], at[1] - 0.33), remark, size=9, color=QUIET)


def _multiply(d: Drawing, at: Point, factor: str, side: str) -> None:
    """Draw a product of a gradient with a value of the forward pass, which arrives from one side."""
    x, y = {"left": (-1, 0), "right": (1, 0), "above": (0, 1), "below": (0, -1)}[side]
    d.point(at, TIMES, BACK)
    d.arrow((at[0] + 0.6 * x, at[1] + 0.6 * y), (at[0] + 0.24 * x, at[1] + 0.24 * y))
    ha = {"left": "right", "right": "left"}.get(side, "center")
    d.text((at[0] + 0.68 * x, at[1] + 0.8 * y), factor, ha=ha)
