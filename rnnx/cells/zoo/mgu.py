r"""The minimal gated unit: one gate that forgets and resets.

.. math::

    f_t = \sigma(W_f [a_{t-1}; x_t] + b_f) \qquad \tilde a_t = \tanh(W_c [f_t a_{t-1}; x_t] + b_c) \qquad
    a_t = (1 - f_t) a_{t-1} + f_t \tilde a_t

Source: G.-B. Zhou, J. Wu, C.-L. Zhang, Z.-H. Zhou, "Minimal gated unit for recurrent neural networks",
arXiv:1603.09420.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell
def mgu(x, a, *, f=Gate, c=Gate):
    f = sigmoid(f(x, a))
    return a + f * (tanh(c(x, f * a)) - a)
