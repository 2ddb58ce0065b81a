r"""The long short-term memory with a forget gate and without peepholes.

.. math::

    f_t &= \sigma(W_f [a_{t-1}; x_t] + b_f) &\quad i_t &= \sigma(W_i [a_{t-1}; x_t] + b_i) \\
    \tilde c_t &= \tanh(W_c [a_{t-1}; x_t] + b_c) &\quad o_t &= \sigma(W_o [a_{t-1}; x_t] + b_o) \\
    c_t &= f_t c_{t-1} + i_t \tilde c_t &\quad a_t &= o_t \tanh(c_t)

Source: F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget", Neural Computation 12 (2000), in the notation of
the sequence-models course. Gate order f, i, c, o.
"""

from rnnx.cells.cell import Cell
from rnnx.cells.gate import Gate
from rnnx.cells.stage import Stage


def forward(ops, zx, zh, s):
    (zf_x, zi_x, zc_x, zo_x), (zf_h, zi_h, zc_h, zo_h), (_, c_prev) = zx, zh, s
    f = ops.sigmoid(zf_x + zf_h)
    i = ops.sigmoid(zi_x + zi_h)
    cc = ops.tanh(zc_x + zc_h)
    o = ops.sigmoid(zo_x + zo_h)
    c = f * c_prev + i * cc
    return (o * ops.tanh(c), c), (f, i, cc, o)


def backward(ops, ds, s_prev, s_next, saved):
    (da, dc), (_, c_prev), (_, c), (f, i, cc, o) = ds, s_prev, s_next, saved
    tc = ops.tanh(c)
    dtc = da * o  # a = o tanh(c)
    dc = dc + dtc - dtc * tc * tc
    df, di, dcc, do = dc * c_prev, dc * cc, dc * i, da * tc  # c = f c_prev + i cc
    dz = (df * (f - f * f), di * (i - i * i), dcc - dcc * cc * cc, do * (o - o * o))
    return dz, dz, (ops.zeros_like(da), dc * f)


LSTM = Cell(
    name="lstm",
    states=("a", "c"),
    stages=(
        Stage(
            gates=tuple(Gate((f"W{gate}",), f"b{gate}", forgets=gate == "f") for gate in "fico"),
            out=("a", "c"),
            saved=("ft", "it", "cct", "ot"),
            forward=forward,
            backward=backward,
        ),
    ),
    cache=("ft", "it", "cct", "ot"),
)
