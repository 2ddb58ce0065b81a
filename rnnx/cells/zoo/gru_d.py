r"""The GRU whose state decays between observations.

.. math::

    \hat a_t &= \exp(-\max(0, W_d x_t + b_d)) a_{t-1} &\quad u_t, r_t &= \sigma(W_{u, r} [\hat a_t; x_t] + b_{u, r}) \\
    a_t &= (1 - u_t) \hat a_t + u_t \tilde a_t &\quad \tilde a_t &= \tanh(W_c [r_t \hat a_t; x_t] + b_c)

The time since each variable was observed, and the mask of the missing ones, are among the inputs x. Source: Z. Che, S.
Purushotham, K. Cho, D. Sontag, Y. Liu, "Recurrent neural networks for multivariate time series with missing values",
arXiv:1606.01865. The decay of the inputs is left to the data.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import exp, relu, sigmoid, tanh


@cell
def gru_d(x, a, *, d=Gate, u=Gate, r=Gate, c=Gate):
    a = exp(-relu(d(x))) * a
    u, r = sigmoid(u(x, a)), sigmoid(r(x, a))
    return a + u * (tanh(c(x, r * a)) - a)
