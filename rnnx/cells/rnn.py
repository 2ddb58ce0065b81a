r"""The Elman network with tanh.

.. math::

    a_t = \tanh(W_{aa} a_{t-1} + W_{ax} x_t + b_a)

Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990).
"""

from rnnx.cells.cell import Cell
from rnnx.cells.gate import Gate
from rnnx.cells.stage import Stage


def forward(ops, zx, zh, s):
    (za_x,), (za_h,) = zx, zh
    a = ops.tanh(za_x + za_h)
    return (a,), ()


def backward(ops, ds, s_prev, s_next, saved):
    (da,), (a,) = ds, s_next
    dz = (da - da * a * a,)  # a = tanh(z), so dz = da (1 - a^2)
    return dz, dz, (ops.zeros_like(da),)


RNN = Cell(
    name="rnn",
    states=("a",),
    stages=(Stage((Gate(("Wax", "Waa"), "ba"),), out=("a",), saved=(), forward=forward, backward=backward),),
    head=("Wya", "by"),
)
