r"""The LSTM with coupled input and forget gates.

.. math::

    f_t &= \sigma(W_f [a_{t-1}; x_t] + b_f) &\quad c_t &= f_t c_{t-1} + (1 - f_t) \tanh(W_g [a_{t-1}; x_t] + b_g) \\
    o_t &= \sigma(W_o [a_{t-1}; x_t] + b_o) &\quad a_t &= o_t \tanh(c_t)

Source: K. Greff, R. K. Srivastava, J. Koutnik, B. R. Steunebrink, J. Schmidhuber, "LSTM: a search space odyssey",
arXiv:1503.04069.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell(initial={"bf": 1.0})
def cifg(x, a, c, *, f=Gate, g=Gate, o=Gate):
    g = tanh(g(x, a))
    c = g + sigmoid(f(x, a)) * (c - g)
    return sigmoid(o(x, a)) * tanh(c), c
