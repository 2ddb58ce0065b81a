"""Cells whose recurrent weights are block-diagonal."""

import rnnx
from rnnx.cells import CELLS, Cell, Gate, Stage, Vector, layer_norm, sigmoid, tanh


@rnnx.cell
def of_all_kinds(x, a, b, *, f=Gate(heads=2), g=Gate(heads=2), h=Gate(heads=3), k=Gate, v=Vector):
    """Products of the same operand with different heads, and one of a value of the same step with heads."""
    c = sigmoid(f(x, a)) * b + tanh(h(a) + k(x, a))
    return tanh(g(c)) + v * a, c


@rnnx.cell
def normalized_heads(x, a, *, f=Gate(heads=3), c=Gate(heads=3), gain=Vector(1.0)):
    """With means over the units of all heads."""
    return a + sigmoid(f(x, a)) * tanh(c(x) + layer_norm(c(a), gain))


def biased_forward(ops, zx, zh, s):
    (f_x, c_x), (f_h, c_h), (a,) = zx, zh, s
    f, c = ops.sigmoid(f_x + f_h), ops.tanh(c_x + f_h * c_h)
    return (a + f * (c - a),), ()


GATES = (Gate(("Wf",), "bf", "bhf", heads=2), Gate(("Wx", "Wh"), "bc", "bhc", heads=2))
BIASED_HEADS = Cell("biased_heads", ("a",), (Stage(GATES, ("a",), (), biased_forward),))
OF_ALL_KINDS, NORMALIZED = of_all_kinds, normalized_heads
HEADS = [OF_ALL_KINDS, NORMALIZED, BIASED_HEADS]
MANY_HEADS = CELLS["slstm"].replace(heads=4)
