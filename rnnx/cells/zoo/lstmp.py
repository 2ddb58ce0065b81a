r"""The LSTM with a recurrent projection. `cells` is the width of the cell state; 0 means that of the projection, n_a.

.. math::

    c_t &= f_t c_{t-1} + i_t \tanh(W_g [a_{t-1}; x_t] + b_g) &\quad
    f_t, i_t, o_t &= \sigma(W_{f, i, o} [a_{t-1}; x_t] + b_{f, i, o}) \\
    a_t &= W_p (o_t \tanh(c_t))

Source: H. Sak, A. Senior, F. Beaufays, "Long short-term memory based recurrent neural network architectures for large
vocabulary speech recognition", arXiv:1402.1128. There, the projection is narrower than the cell state.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import sigmoid, tanh

Wide = Gate(width="cells")


@cell(initial={"bf": 1.0})
def lstmp(x, a, c, *, f=Wide, i=Wide, g=Wide, o=Wide, p=Gate, cells=0):
    c = sigmoid(f(x, a)) * c + sigmoid(i(x, a)) * tanh(g(x, a))
    return p(sigmoid(o(x, a)) * tanh(c)), c
