r"""The coupled oscillatory network.

.. math::

    z_t = z_{t-1} + \Delta t (\tanh(W [y_{t-1}; x_t] + V z_{t-1} + b) - \gamma y_{t-1} - \epsilon z_{t-1}) \qquad
    y_t = y_{t-1} + \Delta t z_t

Source: T. K. Rusch, S. Mishra, "Coupled oscillatory recurrent neural network (coRNN)", arXiv:2010.00951.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import tanh


@cell
def cornn(x, y, z, *, w=Gate, v=Gate, dt=0.05, gamma=1.0, epsilon=2.0):
    z = z + dt * (tanh(w(x, y) + v(z)) - gamma * y - epsilon * z)
    return y + dt * z, z
