"""Draw the schematic figures of the docs: `python docs/figures/schematics.py [FOLDER]`, by default into this folder."""

import sys
from collections.abc import Callable
from pathlib import Path

from drawing import BACK, QUIET, Drawing

TIMES, SIGMA = "\N{MULTIPLICATION SIGN}", "\N{GREEK SMALL LETTER SIGMA}"


def rnn_cell() -> Drawing:
    """Draw one step of the RNN, with the output layer above it."""
    d = Drawing(11, 6.8)
    d.frame((1.7, 0.95), (8.9, 3.95), "rnn_cell_forward")
    row, column = 2.6, 4.5
    d.text((0.85, row), "a_prev")
    d.arrow((1.35, row), (2.3, row))
    d.box((2.9, row), "Waa", "product")
    d.arrow((3.5, row), (column - 0.24, row))
    d.text((column, 0.35), "xt")
    d.arrow((column, 0.6), (column, 1.15))
    d.box((column, 1.55), "Wax", "product")
    d.arrow((column, 1.95), (column, row - 0.24))
    d.point((column, row), "+")
    d.text((column, 3.5), "ba")
    d.arrow((column, 3.3), (column, row + 0.24))
    d.arrow((column + 0.24, row), (5.7, row))
    d.text((5.2, row + 0.25), "z")
    d.box((6.3, row), "tanh", "tanh")
    d.arrow((6.9, row), (9.6, row))
    d.text((10.2, row), "a_next")
    d.dot((8.1, row))
    d.arrow((8.1, row), (8.1, 4.3))
    d.box((8.1, 4.7), "Wya, by", "product", width=1.5)
    d.arrow((8.1, 5.1), (8.1, 5.4))
    d.box((8.1, 5.8), "softmax", "softmax", width=1.5)
    d.arrow((8.85, 5.8), (9.6, 5.8))
    d.text((10.25, 5.8), "yt_pred")
    d.text((7.15, 5.25), "output layer", size=10, color=QUIET, ha="right")
    return d


def lstm_cell() -> Drawing:
    """Draw one step of the LSTM, with the cell state along the top and the hidden state along the bottom."""
    d = Drawing(13.4, 7.6)
    top, bottom, gates, middle = 6.1, 1.7, 3.0, 4.6
    f, i, cc, o, out = 3.3, 5.1, 6.9, 8.7, 10.7
    d.frame((1.5, 1.05), (11.6, 7.0), "lstm_cell_forward")
    d.text((0.75, top), "c_prev")
    d.arrow((1.25, top), (f - 0.24, top))
    d.point((f, top), TIMES)
    d.arrow((f + 0.24, top), (cc - 0.24, top))
    d.point((cc, top), "+")
    d.arrow((cc + 0.24, top), (12.1, top))
    d.text((12.7, top), "c_next")
    d.text((0.75, bottom), "a_prev")
    d.arrow((1.25, bottom), (o, bottom), head=False)
    d.text((2.2, 0.35), "xt")
    d.arrow((2.2, 0.6), (2.2, bottom), head=False)
    d.dot((2.2, bottom))
    d.text((2.4, bottom - 0.3), "[a_prev; xt]", size=10, ha="left")
    labels = {
        f: (SIGMA, "Wf, bf", "ft"),
        i: (SIGMA, "Wi, bi", "it"),
        cc: ("tanh", "Wc, bc", "cct"),
        o: (SIGMA, "Wo, bo", "ot"),
    }
    for x, (function, weights, name) in labels.items():
        if x != o:
            d.dot((x, bottom))
        d.arrow((x, bottom), (x, gates - 0.4))
        d.box((x, gates), function, "tanh" if function == "tanh" else "sigmoid")
        d.text((x + 0.1, bottom + 0.58), weights, size=9, color=QUIET, ha="left")
        d.text((x + 0.15, gates + 0.65), name, ha="left")
    d.arrow((f, gates + 0.4), (f, top - 0.24))
    d.arrow((i, gates + 0.4), (i, middle), (cc - 0.24, middle))
    d.arrow((cc, gates + 0.4), (cc, middle - 0.24))
    d.point((cc, middle), TIMES)
    d.arrow((cc, middle + 0.24), (cc, top - 0.24))
    d.dot((out, top))
    d.arrow((out, top), (out, 5.4))
    d.box((out, 5.0), "tanh", "tanh")
    d.arrow((out, 4.6), (out, 4.04))
    d.arrow((o, gates + 0.4), (o, 3.8), (out - 0.24, 3.8))
    d.point((out, 3.8), TIMES)
    d.arrow((out, 3.56), (out, bottom), (12.1, bottom))
    d.text((12.7, bottom), "a_next")
    return d


def gru_cell() -> Drawing:
    """Draw one step of the course's GRU, whose reset gate acts before the product."""
    d = Drawing(13.4, 8.1)
    top, bottom, gates, middle, branch = 6.7, 1.7, 3.0, 4.3, 5.1
    start, r, u, joint, cc = 2.2, 4.1, 6.3, 7.7, 9.9
    d.frame((1.5, 1.05), (11.6, 7.6), "gru_cell_forward")
    d.text((0.75, top), "a_prev")
    d.arrow((1.25, top), (u - 0.24, top))
    d.point((u, top), TIMES)
    d.arrow((u + 0.24, top), (cc - 0.24, top))
    d.point((cc, top), "+")
    d.arrow((cc + 0.24, top), (12.1, top))
    d.text((12.7, top), "a_next")
    d.dot((start, top))
    d.dot((start, middle))
    d.arrow((start, top), (start, bottom), (u, bottom), (u, gates - 0.4))
    d.text((3.0, 0.35), "xt")
    d.arrow((3.0, 0.6), (3.0, bottom), head=False)
    d.dot((3.0, bottom))
    d.text((3.2, bottom - 0.3), "[a_prev; xt]", size=10, ha="left")
    d.dot((r, bottom))
    d.arrow((r, bottom), (r, gates - 0.4))
    for x, weights in ((r, "Wr, br"), (u, "Wu, bu")):
        d.box((x, gates), SIGMA, "sigmoid")
        d.text((x + 0.1, bottom + 0.58), weights, size=9, color=QUIET, ha="left")
    d.arrow((r, gates + 0.4), (r, middle - 0.24))
    d.text((r + 0.15, gates + 0.65), "rt", ha="left")
    d.arrow((start, middle), (r - 0.24, middle))
    d.point((r, middle), TIMES)
    d.arrow((r + 0.24, middle), (joint, middle), (joint, gates), (cc - 0.6, gates))
    d.text((joint, 2.0), "xt")
    d.arrow((joint, 2.2), (joint, gates), head=False)
    d.dot((joint, gates))
    d.text((joint + 0.12, middle - 0.35), "[rt * a_prev; xt]", size=10, ha="left")
    d.box((cc, gates), "tanh", "tanh")
    d.text((cc, gates - 0.65), "Wc, bc", size=9, color=QUIET)
    d.arrow((cc, gates + 0.4), (cc, branch - 0.24))
    d.text((cc + 0.15, middle + 0.25), "cct", ha="left")
    d.arrow((u, gates + 0.4), (u, 5.66))
    d.text((u + 0.15, gates + 0.65), "ut", ha="left")
    d.dot((u, branch))
    d.arrow((u, branch), (cc - 0.24, branch))
    d.point((cc, branch), TIMES)
    d.arrow((cc, branch + 0.24), (cc, top - 0.24))
    d.point((u, 5.9), "1-")
    d.arrow((u, 6.14), (u, top - 0.24))
    return d


def unrolled() -> Drawing:
    """Draw the same cell unrolled over time."""
    d = Drawing(13.6, 5.2)
    row, places = 2.7, _places()
    d.text((0.65, row), "a0")
    d.arrow((0.95, row), (places[0][0] - 0.75, row))
    for k, (x, t) in enumerate(places):
        d.box((x, row), f"cell\nt = {t}", "product", width=1.5, height=1.3)
        d.text((x, 0.95), f"x[:, :, {t}]", size=10)
        d.arrow((x, 1.2), (x, row - 0.65))
        d.arrow((x, row + 0.65), (x, 4.2))
        d.text((x, 4.5), f"y[:, :, {t}]", size=10)
        if k == 2:
            d.arrow((x + 0.75, row), (x + 1.35, row))
            d.text((x + 1.7, row), "...", size=14)
            d.arrow((x + 2.05, row), (places[3][0] - 0.75, row))
        elif k < 2:
            d.arrow((x + 0.75, row), (places[k + 1][0] - 0.75, row))
            d.text((x + 1.4, row + 0.28), f"a[:, :, {t}]", size=9)
    d.arrow((places[3][0] + 0.75, row), (13.1, row))
    d.text((12.75, row + 0.28), "a[:, :, -1]", size=9)
    d.text((6.8, 0.3), "the same parameters in every step", size=10, color=QUIET)
    return d


def backward() -> Drawing:
    """Draw the gradient flowing from the last step to the first, with each step's part of the parameters' gradients."""
    d = Drawing(16.2, 6.2)
    row, places = 3.4, [(2.4, "0"), (5.8, "1"), (9.2, "2"), (13.2, "T_x-1")]
    d.text((0.6, row), "da0", color=BACK)
    for k, (x, t) in enumerate(places):
        d.box((x, row), f"cell_backward\nt = {t}", "product", width=1.9, height=1.2)
        if k == 3:
            d.arrow((x - 0.95, row), (x - 1.4, row), color=BACK)
            d.text((x - 1.65, row), "...", size=14, color=BACK)
            d.arrow((x - 1.9, row), (places[2][0] + 1.69, row), color=BACK)
        else:
            d.arrow((x - 0.95, row), (0.95, row) if k == 0 else (places[k - 1][0] + 1.69, row), color=BACK)
        d.point((x + 1.45, row), "+", BACK)
        d.arrow((x + 1.21, row), (x + 0.95, row), color=BACK)
        d.text((x + 1.45, 5.5), f"da[:, :, {t}]", size=10, color=BACK)
        d.arrow((x + 1.45, 5.25), (x + 1.45, row + 0.24), color=BACK)
        d.arrow((x - 0.45, row - 0.6), (x - 0.45, 2.0), color=BACK)
        d.text((x - 0.45, 1.75), f"dx[:, :, {t}]", size=10, color=BACK)
        d.arrow((x + 0.45, row - 0.6), (x + 0.45, 0.9), color=BACK)
        if k in (1, 2):
            d.text((x - 1.36, row + 0.42), "da_prev", size=9, color=BACK)
    d.box((7.8, 0.55), "dWax, dWaa, dba: the sum over all steps", "product", width=13.6, height=0.7)
    return d


def _places() -> list[tuple[float, str]]:
    return [(2.3, "0"), (5.1, "1"), (7.9, "2"), (11.3, "T_x-1")]


FIGURES: dict[str, Callable[[], Drawing]] = {
    "rnn_cell": rnn_cell,
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "unrolled": unrolled,
    "backward": backward,
}


def main(folder: Path) -> None:
    """Write every figure as SVG."""
    for name, draw in FIGURES.items():
        draw().save(folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
