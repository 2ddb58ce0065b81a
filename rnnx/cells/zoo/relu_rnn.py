r"""The Elman network with rectified linear units.

.. math:: a_t = \max(0, W [a_{t-1}; x_t] + b)

Source: Q. V. Le, N. Jaitly, G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear units",
arXiv:1504.00941. The paper starts from the identity for the recurrent weights.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import relu


@cell
def relu_rnn(x, a, *, g=Gate):
    return relu(g(x, a))
