r"""The minimal GRU, whose gate and candidate depend on the input alone.

.. math::

    z_t = \sigma(W_z x_t + b_z) \qquad \tilde a_t = W_c x_t + b_c \qquad a_t = (1 - z_t) a_{t-1} + z_t \tilde a_t

Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio, H. Hajimirsadeghi, "Were RNNs all we needed?", arXiv:2410.01201.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid


@cell
def mingru(x, a, *, z=Gate, c=Gate):
    return a + sigmoid(z(x)) * (c(x) - a)
