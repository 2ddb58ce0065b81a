r"""The GRU with layer normalization of the recurrent sides.

.. math::

    u_t, r_t &= \sigma(W_{xk} x_t + b_k + N(W_{hk} a_{t-1}; g_k)), \quad k = u, r \\
    \tilde{c}_t &= \tanh(W_{xc} x_t + b_c + r_t (N(W_{hc} a_{t-1}; g_c) + s_c)) \\
    a_t &= u_t \tilde{c}_t + (1 - u_t) a_{t-1} \\
    N(z; g) &= g (z - \mu) / \sqrt{v + 10^{-5}}

with the mean :math:`\mu` and the variance :math:`v` of z over the units. Source: J. L. Ba, J. R. Kiros, G. E. Hinton,
"Layer normalization", arXiv:1607.06450. The paper also normalizes the input sides, and u and r together.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import layer_norm, sigmoid, tanh

GAIN = Vector(1.0)


@cell
def layer_norm_gru(x, a, *, u=Gate, r=Gate, c=Gate, gu=GAIN, gr=GAIN, gc=GAIN, sc=Vector):
    u, r = sigmoid(u(x) + layer_norm(u(a), gu)), sigmoid(r(x) + layer_norm(r(a), gr))
    c = tanh(c(x) + r * (layer_norm(c(a), gc) + sc))
    return u * c + (1 - u) * a
