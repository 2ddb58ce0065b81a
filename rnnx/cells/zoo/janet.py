r"""The LSTM with just a forget gate.

.. math::

    s_t = W_f [a_{t-1}; x_t] + b_f \qquad
    a_t = \sigma(s_t) a_{t-1} + (1 - \sigma(s_t - \beta)) \tanh(W_c [a_{t-1}; x_t] + b_c)

Source: J. van der Westhuizen, J. Lasenby, "The unreasonable effectiveness of the forget gate", arXiv:1804.04849.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell(initial={"bf": 1.0})
def janet(x, a, *, f=Gate, c=Gate, beta=1.0):
    s = f(x, a)
    return sigmoid(s) * a + (1 - sigmoid(s - beta)) * tanh(c(x, a))
