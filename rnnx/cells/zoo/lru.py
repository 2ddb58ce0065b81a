r"""The linear recurrent unit, its complex state as a real and an imaginary part.

.. math::

    a_t + i b_t = \lambda (a_{t-1} + i b_{t-1}) + e^{\gamma} (B x_t) \qquad \lambda = \exp(-e^{\nu} + i e^{\theta})

Source: A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", arXiv:2303.06349. The initial
magnitudes of :math:`\lambda` are 0.9 to 0.99.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import cos, exp, sin


@cell
def lru(x, a, b, *, u=Gate, v=Gate, nu=Vector((-4.6, -2.25)), theta=Vector((-3.0, 1.0)), gamma=Vector):
    size, angle = exp(-exp(nu)), exp(theta)
    p, q = size * cos(angle), size * sin(angle)
    return p * a - q * b + exp(gamma) * u(x), q * a + p * b + exp(gamma) * v(x)
