"""Cells over time, and attention over a sequence."""

from cells import SIGMA, TIMES
from drawing import BACK, QUIET, Drawing


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


def lstm_over_time() -> Drawing:
    """Draw three steps of the LSTM, and what multiplies the gradient on its way back along the cell state."""
    d = Drawing(13.8, 7.8)
    back, top, width, gap = 6.1, 4.5, 2.95, 1.2
    d.band((0.8, top), (13.6, top))
    d.text((0.45, top), "c0")
    d.text((0.45, 2.2), "a0")
    d.arrow((0.75, top), (1.46, top))
    d.arrow((0.75, 2.2), (1.4, 2.2))
    places = [1.1 + t * (width + gap) for t in range(3)]
    for t, x in enumerate(places):
        d.frame((x, 1.5), (x + width, 5.35))
        d.text((x + 0.2, 5.08), f"t = {t}", size=10, color=QUIET, ha="left")
        last, end = t == 2, x + width + gap
        _lstm_step(d, x, top, c_end=end - 0.3 if last else end + 0.36, a_end=end - 0.3 if last else end + 0.3)
        d.text((x + 1.0, 0.95), f"x[:, :, {t}]", size=10)
        d.text((x + width + 0.6, top + 0.42), f"c[:, :, {t}]", size=10)
        d.text((x + width + 0.6, 2.48), f"a[:, :, {t}]", size=10)
        d.point((x + 0.6, back), TIMES, BACK)
        d.text((x + 0.6, back + 0.72), "ft")
        d.arrow((x + 0.6, back + 0.54), (x + 0.6, back + 0.24))
        d.arrow((13.2 if last else end + 0.36, back), (x + 0.84, back), color=BACK)
    d.arrow((places[0] + 0.36, back), (0.85, back), color=BACK)
    d.text((13.45, back), "dc", color=BACK)
    d.text((0.45, back), "dc0", color=BACK)
    along_c = (
        "Back along c, every step multiplies the gradient by ft, and by nothing else: where ft is near 1, it survives."
    )
    d.text((6.9, 7.45), along_c, size=10, color=BACK)
    along_a = f"Back along a, every step multiplies the gradient by weights and by slopes of {SIGMA} and tanh."
    d.text((6.9, 0.3), along_a, size=10, color=BACK)
    return d


def _lstm_step(d: Drawing, x: float, top: float, *, c_end: float, a_end: float) -> None:
    """Draw one step that begins at x, and its two states up to where their arrows end."""
    bottom, forget, write, show = 2.2, x + 0.6, x + 1.3, x + 2.35
    d.point((forget, top), TIMES)
    d.arrow((forget + 0.24, top), (write - 0.24, top))
    d.point((write, top), "+")
    d.arrow((write + 0.24, top), (c_end, top))
    d.dot((show, top))
    d.box((x + 1.0, bottom), "gates", "sigmoid", width=1.4)
    d.arrow((x + 1.0, 1.15), (x + 1.0, bottom - 0.4))
    d.arrow((forget, bottom + 0.4), (forget, top - 0.24))
    d.text((forget - 0.1, 3.3), "ft", size=10, ha="right")
    d.arrow((write, bottom + 0.4), (write, top - 0.24))
    d.text((write + 0.08, 2.95), "it * cct", size=10, ha="left")
    d.arrow((x + 1.7, bottom), (show - 0.24, bottom))
    d.text((x + 1.88, bottom - 0.25), "ot", size=10)
    d.arrow((show, top), (show, 4.05))
    d.box((show, 3.75), "tanh", "tanh", width=0.9, height=0.6)
    d.arrow((show, 3.45), (show, bottom + 0.24))
    d.point((show, bottom), TIMES)
    d.arrow((show + 0.24, bottom), (a_end, bottom))


def attention() -> Drawing:
    """Draw one step of a decoder that attends to the four outputs of an encoder."""
    d = Drawing(13.8, 9.3)
    states, score, softmax, mean, left, right, decoder = 1.9, 3.9, 5.4, 7.3, 2.2, 8.7, 11.2
    d.frame((left, 1.25), (right, 2.55))
    places = {1: (2.9, 0.1), 2: (4.3, 0.7), 3: (5.7, 0.1), 4: (7.1, 0.1)}
    for s, (x, weight) in places.items():
        d.text((x, 0.4), f"$x_{s}$")
        d.arrow((x, 0.65), (x, states - 0.35))
        d.box((x, states), f"$h_{s}$", "product", width=0.9, height=0.7)
        d.arrow((x, states + 0.35), (x, score - 0.4))
        d.arrow((x, score + 0.4), (x, softmax - 0.4))
        d.text((x + 0.12, (score + softmax) / 2), f"$e_{{t{s}}}$", ha="left")
        d.arrow((x, softmax + 0.4), (x, mean - 0.4), width=1 + 5 * weight)
        d.text((x + 0.15, (softmax + mean) / 2), f"$\\alpha_{{t{s}}}$ = {weight}", size=10, ha="left")
        if s < 4:
            d.arrow((x + 0.45, states + 0.12), (x + 0.95, states + 0.12))
            d.arrow((x + 0.95, states - 0.12), (x + 0.45, states - 0.12))
    d.text((8.15, states), "encoder", size=10, color=QUIET)
    d.text((2.4, 0.4), "source", size=10, color=QUIET, ha="right")
    middle, width = (left + right) / 2, right - left
    d.box((middle, score), "score: how well does each $h_s$ match $a_t$?", "product", width=width)
    d.box((middle, softmax), "softmax: the weights sum to 1", "softmax", width=width)
    d.box((middle, mean), "weighted mean: $c_t = \\alpha_{t1} h_1 + \\dots + \\alpha_{t4} h_4$", "product", width=width)
    d.arrow((left, states), (1.5, states), (1.5, mean), (left, mean))
    d.text((1.35, 4.6), "values\n$h_1 \\dots h_4$", size=10, ha="right")
    d.text((7.25, 3.02), "keys $h_1 \\dots h_4$", size=10, ha="left")
    d.box((decoder, score), "decoder\nstep $t$", "product", width=1.7, height=1.1)
    d.text((decoder, 1.9), "$y_{t-1}$")
    d.text((decoder, 1.5), "previous target", size=10, color=QUIET)
    d.arrow((decoder, 2.2), (decoder, score - 0.55))
    d.arrow((decoder - 0.85, score), (right, score))
    d.text((9.5, score + 0.27), "query $a_t$", size=10)
    d.arrow((decoder, score + 0.55), (decoder, mean - 0.4))
    d.text((decoder + 0.15, softmax), "$a_t$", ha="left")
    d.arrow((right, mean), (decoder - 0.6, mean))
    d.text((9.5, mean + 0.27), "context $c_t$", size=10)
    d.box((decoder, mean), "tanh", "tanh")
    d.text((decoder + 0.7, mean), "Wc, bc", size=9, color=QUIET, ha="left")
    d.arrow((decoder, mean + 0.4), (decoder, 8.25))
    d.text((decoder + 0.15, 7.95), r"$\tilde a_t$", ha="left")
    d.text((decoder - 0.7, 8.65), "Wy, by", size=9, color=QUIET, ha="right")
    d.box((decoder, 8.65), "softmax", "softmax")
    d.arrow((decoder + 0.6, 8.65), (12.7, 8.65))
    d.text((13.0, 8.65), r"$\hat y_t$")
    return d


def _places() -> list[tuple[float, str]]:
    return [(2.3, "0"), (5.1, "1"), (7.9, "2"), (11.3, "T_x-1")]
