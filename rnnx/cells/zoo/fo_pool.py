r"""The pooling of the quasi-recurrent network, with filters one step wide.

.. math::

    c_t = f_t c_{t-1} + (1 - f_t) \tanh(W_z x_t + b_z) \qquad a_t = o_t c_t \qquad
    f_t, o_t = \sigma(W_{f, o} x_t + b_{f, o})

Source: J. Bradbury, S. Merity, C. Xiong, R. Socher, "Quasi-recurrent neural networks", arXiv:1611.01576.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell
def fo_pool(x, a, c, *, z=Gate, f=Gate, o=Gate):
    z = tanh(z(x))
    c = z + sigmoid(f(x)) * (c - z)
    return sigmoid(o(x)) * c, c
