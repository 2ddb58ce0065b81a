r"""The LSTM with layer normalization of the recurrent sides and of the cell state.

.. math::

    f_t, i_t, o_t &= \sigma(W_{xk} x_t + b_k + N(W_{hk} a_{t-1}; g_k)), \quad k = f, i, o \\
    c_t &= f_t c_{t-1} + i_t \tanh(W_{xg} x_t + b_g + N(W_{hg} a_{t-1}; g_g)) \\
    a_t &= o_t \tanh(N(c_t; g_c) + b_c) \\
    N(z; g) &= g (z - \mu) / \sqrt{v + 10^{-5}}

with the mean :math:`\mu` and the variance :math:`v` of z over the units. Source: J. L. Ba, J. R. Kiros, G. E. Hinton,
"Layer normalization", arXiv:1607.06450. The paper also normalizes the input sides, and all four gates together; "A
cell of your own" in the documentation shows that variant.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import layer_norm, sigmoid, tanh

GAIN = Vector(1.0)


@cell(initial={"bf": 1.0})
def layer_norm_lstm(x, a, c, *, f=Gate, i=Gate, g=Gate, o=Gate, gf=GAIN, gi=GAIN, gg=GAIN, go=GAIN, gc=GAIN, bc=Vector):
    f, i = sigmoid(f(x) + layer_norm(f(a), gf)), sigmoid(i(x) + layer_norm(i(a), gi))
    c = f * c + i * tanh(g(x) + layer_norm(g(a), gg))
    return sigmoid(o(x) + layer_norm(o(a), go)) * tanh(layer_norm(c, gc) + bc), c
