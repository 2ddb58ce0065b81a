r"""The long expressive memory.

.. math::

    z_t &= (1 - \Delta t_1) z_{t-1} + \Delta t_1 \tanh(W_{zc} [y_{t-1}; x_t] + b_{zc}) &\quad
    \Delta t_1 &= \Delta t \, \sigma(W_{d1} [y_{t-1}; x_t] + b_{d1}) \\
    y_t &= (1 - \Delta t_2) y_{t-1} + \Delta t_2 \tanh(W_c [z_t; x_t] + b_c) &\quad
    \Delta t_2 &= \Delta t \, \sigma(W_{d2} [y_{t-1}; x_t] + b_{d2})

Source: T. K. Rusch, S. Mishra, N. B. Erichson, M. W. Mahoney, "Long expressive memory for sequence modeling",
arXiv:2110.04744.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell
def lem(x, y, z, *, d1=Gate, d2=Gate, zc=Gate, c=Gate, dt=1.0):
    z = z + dt * sigmoid(d1(x, y)) * (tanh(zc(x, y)) - z)
    return y + dt * sigmoid(d2(x, y)) * (tanh(c(x, z)) - y), z
