r"""The update gate RNN.

.. math::

    g_t = \sigma(W_g [a_{t-1}; x_t] + b_g) \qquad a_t = g_t a_{t-1} + (1 - g_t) \tanh(W_c [a_{t-1}; x_t] + b_c)

Source: J. Collins, J. Sohl-Dickstein, D. Sussillo, "Capacity and trainability in recurrent neural networks",
arXiv:1611.09913.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell
def ugrnn(x, a, *, g=Gate, c=Gate):
    c = tanh(c(x, a))
    return c + sigmoid(g(x, a)) * (a - c)
