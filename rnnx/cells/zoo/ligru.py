r"""The light GRU: no reset gate, rectified linear units.

.. math::

    z_t = \sigma(W_z [a_{t-1}; x_t] + b_z) \qquad
    a_t = z_t a_{t-1} + (1 - z_t) \max(0, W_c [a_{t-1}; x_t] + b_c)

Source: M. Ravanelli, P. Brakel, M. Omologo, Y. Bengio, "Light gated recurrent units for speech recognition",
arXiv:1803.10225. The batch normalization of the input sides is left out.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import relu, sigmoid


@cell
def ligru(x, a, *, z=Gate, c=Gate):
    c = relu(c(x, a))
    return c + sigmoid(z(x, a)) * (a - c)
