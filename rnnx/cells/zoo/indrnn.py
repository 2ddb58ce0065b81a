r"""The independently recurrent network: each unit sees only its own previous state.

.. math:: a_t = \max(0, W x_t + u a_{t-1} + b)

Source: S. Li, W. Li, C. Cook, C. Zhu, Y. Gao, "Independently recurrent neural network", arXiv:1803.04831.
"""

from rnnx.cells.decorator import Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import relu


@cell
def indrnn(x, a, *, g=Gate, u=Vector((0.0, 1.0))):
    return relu(g(x) + u * a)
