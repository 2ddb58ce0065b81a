r"""The multiplicative LSTM, whose recurrent weights depend on the input.

.. math::

    m_t &= (W_{mx} x_t + b_m)(W_{mh} a_{t-1}) &\quad c_t &= f_t c_{t-1} + i_t \tanh(W_g [m_t; x_t] + b_g) \\
    f_t, i_t, o_t &= \sigma(W_{f, i, o} [m_t; x_t] + b_{f, i, o}) &\quad a_t &= o_t \tanh(c_t)

Source: B. Krause, L. Lu, I. Murray, S. Renals, "Multiplicative LSTM for sequence modelling", arXiv:1609.07959.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell(initial={"bf": 1.0})
def multiplicative_lstm(x, a, c, *, m=Gate, f=Gate, i=Gate, g=Gate, o=Gate):
    m = m(x) * m(a)
    c = sigmoid(f(x, m)) * c + sigmoid(i(x, m)) * tanh(g(x, m))
    return sigmoid(o(x, m)) * tanh(c), c
