"""The cells: what one time step computes."""

from drawing import QUIET, Drawing

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
    start, r, joint, cc, gates, middle = 2.2, 4.1, 7.7, 9.9, 3.0, 4.3
    _gru_gates(d, "gru_cell_forward", r=r, u=6.3)
    d.arrow((start, middle), (r - 0.24, middle))
    d.point((r, middle), TIMES)
    d.arrow((r + 0.24, middle), (joint, middle), (joint, gates), (cc - 0.6, gates))
    d.text((joint, 2.0), "xt")
    d.arrow((joint, 2.2), (joint, gates), head=False)
    d.dot((joint, gates))
    d.text((joint + 0.12, middle - 0.35), "[rt * a_prev; xt]", size=10, ha="left")
    d.text((cc, gates - 0.65), "Wc, bc", size=9, color=QUIET)
    return d


def gru_reset_after() -> Drawing:
    """Draw one step of the GRU whose reset gate acts after the product."""
    d = Drawing(13.4, 8.1)
    start, r, joint, cc, gates, middle = 2.2, 4.9, 8.0, 9.9, 3.0, 4.3
    _gru_gates(d, "gru_cell_forward, reset_after=True", r=r, u=6.4)
    d.arrow((start, middle), (2.7, middle))
    d.box((3.4, middle), "Wch, bhc", "product", width=1.4)
    d.text((3.4, middle + 0.65), "first the product,", size=10, color=QUIET)
    d.arrow((4.1, middle), (r - 0.24, middle))
    d.point((r, middle), TIMES)
    d.text((r + 0.4, middle + 0.65), "then the reset", size=10, color=QUIET)
    d.arrow((r + 0.24, middle), (joint, middle), (joint, gates + 0.24))
    d.text((joint, 0.35), "xt")
    d.arrow((joint, 0.6), (joint, 1.4))
    d.box((joint, 1.8), "Wcx, bc", "product", width=1.4)
    d.text((joint + 0.9, 1.8), "Wc = [Wch, Wcx]", size=9, color=QUIET, ha="left")
    d.arrow((joint, 2.2), (joint, gates - 0.24))
    d.point((joint, gates), "+")
    d.arrow((joint + 0.24, gates), (cc - 0.6, gates))
    return d


def _gru_gates(d: Drawing, name: str, *, r: float, u: float) -> None:
    """Draw what both forms of the GRU share: all but the input of the candidate's tanh."""
    top, bottom, gates, middle, branch, start, cc = 6.7, 1.7, 3.0, 4.3, 5.1, 2.2, 9.9
    d.frame((1.5, 1.05), (11.6, 7.6), name)
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
    d.box((cc, gates), "tanh", "tanh")
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
