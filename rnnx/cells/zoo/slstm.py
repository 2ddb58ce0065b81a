r"""The LSTM with exponential gates. `heads` is the number of its heads.

.. math::

    m_t &= \max(\log f_t + m_{t-1}, \log i_t) &\quad \log f_t &= \log \sigma(W_f [a_{t-1}; x_t] + b_f) \\
    i'_t &= \exp(\log i_t - m_t) &\quad \log i_t &= W_i [a_{t-1}; x_t] + b_i \\
    f'_t &= \exp(\log f_t + m_{t-1} - m_t) &\quad c_t &= f'_t c_{t-1} + i'_t \tanh(W_z [a_{t-1}; x_t] + b_z) \\
    n_t &= f'_t n_{t-1} + i'_t &\quad a_t &= \sigma(W_o [a_{t-1}; x_t] + b_o) c_t / n_t

The state m keeps the exponentials in range. With heads, the recurrent part of each W is block-diagonal. Source: M. Beck
et al., "xLSTM: extended long short-term memory", arXiv:2405.04517.
"""

from rnnx.cells.decorator import cell
from rnnx.cells.gate import Gate
from rnnx.cells.words import exp, log_sigmoid, maximum, sigmoid, tanh

Heads = Gate(heads="heads")


@cell
def slstm(x, a, c, n, m, *, f=Heads, i=Heads, z=Heads, o=Heads, heads=1):
    f, i = log_sigmoid(f(x, a)) + m, i(x, a)
    m = maximum(f, i)
    f, i = exp(f - m), exp(i - m)
    c, n = f * c + i * tanh(z(x, a)), f * n + i
    return sigmoid(o(x, a)) * c / n, c, n, m
