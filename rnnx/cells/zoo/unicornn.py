r"""The undamped independent controlled oscillatory network.

.. math::

    z_t = z_{t-1} - \Delta t \, \sigma(c) (\tanh(w y_{t-1} + V x_t + b) + \alpha y_{t-1}) \qquad
    y_t = y_{t-1} + \Delta t \, \sigma(c) z_t

Source: T. K. Rusch, S. Mishra, "UnICORNN: a recurrent model for learning very long time dependencies",
arXiv:2103.05487.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh


@cell
def unicornn(x, y, z, *, v=Gate, w=Vector((0.0, 1.0)), c=Vector((-0.1, 0.1)), dt=0.1, alpha=0.9):
    step = dt * sigmoid(c)
    z = z - step * (tanh(w * y + v(x)) + alpha * y)
    return y + step * z, z
