r"""The leaky echo state network.

.. math:: a_t = (1 - \lambda) a_{t-1} + \lambda \tanh(W [a_{t-1}; x_t] + b)

Source: H. Jaeger, M. Lukosevicius, D. Popovici, U. Siewert, "Optimization and applications of echo state networks with
leaky-integrator neurons", Neural Networks 20 (2007). There only the output layer is trained.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import tanh


@cell
def leaky_esn(x, a, *, g=Gate, leak=0.3):
    return (1 - leak) * a + leak * tanh(g(x, a))
