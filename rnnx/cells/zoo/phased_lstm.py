r"""The LSTM with a time gate, which is open for a part of each period.

.. math::

    k_t = \begin{cases} 2 \phi_t / r & \phi_t < r / 2 \\ 2 - 2 \phi_t / r & r / 2 \le \phi_t < r \\
    \alpha \phi_t & \text{otherwise} \end{cases} \qquad
    (a_t, c_t) = k_t \, \text{LSTM}(a_{t-1}, c_{t-1}, x_t) + (1 - k_t) (a_{t-1}, c_{t-1})

:math:`\phi_t` is the fractional part of :math:`t / e^p - s`, with a period :math:`e^p` and a shift s per unit. The
times are the input `t`, or else the numbers of the steps.

Source: D. Neil, M. Pfeiffer, S.-C. Liu, "Phased LSTM: accelerating recurrent network training for long or event-based
sequences", arXiv:1610.09513.
"""

from rnnx.cells.decorator import Input, Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import exp, floor, sigmoid, tanh, where

TIME, RATIO = Input("step"), Vector(0.05)  # RATIO: the fraction of its period during which a unit is open


@cell(initial={"bf": 1.0})
def phased_lstm(
    x, a, c, *, f=Gate, i=Gate, g=Gate, o=Gate, t=TIME, p=Vector((0.0, 3.0)), s=Vector((0.0, 1.0)), r=RATIO, alpha=0.001
):
    phase = t * exp(-p) - s
    phase = phase - floor(phase)
    k = where(phase < 0.5 * r, 2 * phase / r, where(phase < r, 2 - 2 * phase / r, alpha * phase))
    new = sigmoid(f(x, a)) * c + sigmoid(i(x, a)) * tanh(g(x, a))
    return a + k * (sigmoid(o(x, a)) * tanh(new) - a), c + k * (new - c)
