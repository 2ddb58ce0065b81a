r"""The simple recurrent unit: no product with the previous state.

.. math::

    f_t &= \sigma(W_f x_t + b_f + v_f c_{t-1}) &\quad r_t &= \sigma(W_r x_t + b_r + v_r c_{t-1}) \\
    c_t &= f_t c_{t-1} + (1 - f_t) W_g x_t &\quad a_t &= r_t c_t + (1 - r_t) W_k x_t

Source: T. Lei, Y. Zhang, S. I. Wang, H. Dai, Y. Artzi, "Simple recurrent units for highly parallelizable recurrence",
arXiv:1709.02755. The paper's highway connection is x itself, for layers as wide as their input; here a projection.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid


@cell
def sru(x, a, c, *, f=Gate, r=Gate, g=Gate, k=Gate, vf=Vector, vr=Vector):
    f, r = sigmoid(f(x) + vf * c), sigmoid(r(x) + vr * c)
    g, k = g(x), k(x)
    c = g + f * (c - g)
    return k + r * (c - k), c
