r"""The LSTM with layer normalization.

.. math::

    (f_t, i_t, o_t, g_t) &= N((W_{hk} a_{t-1})_k; \gamma_h) + N((W_{xk} x_t)_k; \gamma_x) + b, \quad k = f, i, o, g \\
    c_t &= \sigma(f_t) c_{t-1} + \sigma(i_t) \tanh(g_t) \\
    a_t &= \sigma(o_t) \tanh(N(c_t; \gamma_c) + b_c) \\
    N(z; \gamma) &= \gamma (z - \mu) / \sqrt{v + 10^{-5}}

with the mean :math:`\mu` and the variance :math:`v` of z over the units, of all four gates in the first equation.
Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450, supplement; the shifts of both
normalized sides and the bias there are one bias here.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import layer_norm, sigmoid, tanh

GATE, GAIN = Gate(biased=False), Vector(1.0)


@cell
def layer_norm_lstm(
    x, a, c, *, f=GATE, i=GATE, g=GATE, o=GATE, xf=GAIN, xi=GAIN, xg=GAIN, xo=GAIN, hf=GAIN, hi=GAIN, hg=GAIN, ho=GAIN,
    bf=Vector(1.0), bi=Vector, bg=Vector, bo=Vector, gc=GAIN, bc=Vector,
):  # fmt: skip
    xf, xi, xg, xo = layer_norm((f(x), i(x), g(x), o(x)), (xf, xi, xg, xo))
    hf, hi, hg, ho = layer_norm((f(a), i(a), g(a), o(a)), (hf, hi, hg, ho))
    c = sigmoid(xf + hf + bf) * c + sigmoid(xi + hi + bi) * tanh(xg + hg + bg)
    return sigmoid(xo + ho + bo) * tanh(layer_norm(c, gc) + bc), c
