r"""The LSTM with peepholes: its gates also see the cell state.

.. math::

    f_t &= \sigma(W_f [a_{t-1}; x_t] + b_f + p_f c_{t-1}) &\quad
    i_t &= \sigma(W_i [a_{t-1}; x_t] + b_i + p_i c_{t-1}) \\
    c_t &= f_t c_{t-1} + i_t \tanh(W_g [a_{t-1}; x_t] + b_g) &\quad
    o_t &= \sigma(W_o [a_{t-1}; x_t] + b_o + p_o c_t) \\
    a_t &= o_t \tanh(c_t)

Source: F. A. Gers, N. N. Schraudolph, J. Schmidhuber, "Learning precise timing with LSTM recurrent networks", Journal
of Machine Learning Research 3 (2002).
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell(initial={"bf": 1.0})
def peephole_lstm(x, a, c, *, f=Gate, i=Gate, g=Gate, o=Gate, pf=Vector, pi=Vector, po=Vector):
    c = sigmoid(f(x, a) + pf * c) * c + sigmoid(i(x, a) + pi * c) * tanh(g(x, a))
    return sigmoid(o(x, a) + po * c) * tanh(c), c
