"""Cells with states, vectors and inputs of different widths."""

import rnnx
from rnnx.cells import CELLS, Cell, Gate, Input, Stage, Vector, exp, layer_norm, sigmoid, tanh


@rnnx.cell
def three_widths(
    x, a, b, c, *, f=Gate(width=3), g=Gate, h=Gate(width=21), k=Gate(width=21), q=Gate(width=3), v=Vector, w=Vector,
    e=Input,
):  # fmt: skip
    """One operand of gates of three widths, several stages, hoisted vectors, and means."""
    b = tanh(f(x, a)) * b
    a = tanh(g(x, a)) + a * v
    c = c * exp(-w) + tanh(h(b) * k(a)) * e
    return a, b + sigmoid(q(c)), layer_norm(c, w) + e


@rnnx.cell
def of_inputs_alone(x, a, b, *, f=Gate(width=2, heads=2), g=Gate(width=2), h=Gate):
    """A projection of a smaller state, with heads; the hidden state is never multiplied."""
    b = tanh(g(x) + f(b))
    return a * 0.5 + sigmoid(h(x, b)), b


def of_one_stage(ops, zx, zh, s):
    (c_x, g_x), (c_h,), (a, c) = zx, zh, s
    return (a * ops.sigmoid(g_x), ops.tanh(c_x + c_h) + 0.5 * c), ()


# A record. Its hidden state is only scaled.
GATES = Gate(("Wc",), "bc", "bhc", width=9), Gate(("Wg",), "bg", sides="x")
RECORD = Cell("record", ("a", "c"), (Stage(GATES, ("a", "c"), (), of_one_stage),), widths=(("c", 9),))
PROJECTION = CELLS["lstmp"].replace(cells=18)
THREE_WIDTHS, OF_INPUTS_ALONE = three_widths, of_inputs_alone
WIDE = [PROJECTION, THREE_WIDTHS, OF_INPUTS_ALONE, RECORD]
