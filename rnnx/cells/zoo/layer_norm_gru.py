r"""The GRU with layer normalization.

.. math::

    (u_t, r_t) &= \sigma(N((W_{hk} a_{t-1})_k; \gamma_h) + N((W_{xk} x_t)_k; \gamma_x) + b), \quad k = u, r \\
    \tilde{c}_t &= \tanh(N(W_{xc} x_t; \gamma_{xc}) + b_c + r_t (N(W_{hc} a_{t-1}; \gamma_{hc}) + s_c)) \\
    a_t &= u_t \tilde{c}_t + (1 - u_t) a_{t-1} \\
    N(z; \gamma) &= \gamma (z - \mu) / \sqrt{v + 10^{-5}}

with the mean :math:`\mu` and the variance :math:`v` of z over the units, of both gates in the first equation.
Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450, supplement; the shifts of both
normalized sides of u and r are one bias here.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import layer_norm, sigmoid, tanh

GATE, GAIN = Gate(biased=False), Vector(1.0)


@cell
def layer_norm_gru(
    x, a, *, u=GATE, r=GATE, c=GATE, xu=GAIN, xr=GAIN, xc=GAIN, hu=GAIN, hr=GAIN, hc=GAIN,
    bu=Vector, br=Vector, bc=Vector, sc=Vector,
):  # fmt: skip
    xu, xr = layer_norm((u(x), r(x)), (xu, xr))
    hu, hr = layer_norm((u(a), r(a)), (hu, hr))
    u, r = sigmoid(xu + hu + bu), sigmoid(xr + hr + br)
    c = tanh(layer_norm(c(x), xc) + bc + r * (layer_norm(c(a), hc) + sc))
    return u * c + (1 - u) * a
