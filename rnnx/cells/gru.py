r"""The two forms of the gated recurrent unit.

In both, the update gate weights the *new* value, as in the course (in PyTorch and Keras, the old one):

.. math::

    u_t = \sigma(W_u [a_{t-1}; x_t] + b_u) \qquad r_t = \sigma(W_r [a_{t-1}; x_t] + b_r) \qquad
    a_t = u_t \tilde c_t + (1 - u_t) a_{t-1}

``GRU``, the course's form, resets *before* the product (K. Cho et al., arXiv:1406.1078v3):

.. math:: \tilde c_t = \tanh(W_c [r_t a_{t-1}; x_t] + b_c)

``GRU_RESET_AFTER`` resets *after* it (arXiv:1406.1078v1; PyTorch, cuDNN, the default of Keras). With the
columns of :math:`W_c` split into :math:`W_{ch}` and :math:`W_{cx}`:

.. math:: \tilde c_t = \tanh(W_{cx} x_t + b_c + r_t (W_{ch} a_{t-1} + b_{hc}))

The first form needs r for its second product, so it has two stages. The first passes on ``r a``, the operand of the
second product, the gate u, and ``keep = (1 - u) a``.
"""

from rnnx.cells.cell import Cell
from rnnx.cells.gate import Gate
from rnnx.cells.stage import Stage


def gates_forward(ops, zx, zh, s):
    (zu_x, zr_x), (zu_h, zr_h), (a,) = zx, zh, s
    u = ops.sigmoid(zu_x + zu_h)
    r = ops.sigmoid(zr_x + zr_h)
    return (r * a, u, a - u * a), (r,)


def gates_backward(ops, ds, s_prev, s_next, saved):
    (dra, du, dkeep), (a,), (_, u, _), (r,) = ds, s_prev, s_next, saved
    du = du - dkeep * a  # keep = a - u a
    dr = dra * a  # ra = r a
    dz = (du * (u - u * u), dr * (r - r * r))
    return dz, dz, (dra * r + dkeep - dkeep * u,)


def candidate_forward(ops, zx, zh, s):
    (zc_x,), (zc_h,), (_, u, keep) = zx, zh, s
    cc = ops.tanh(zc_x + zc_h)
    return (u * cc + keep,), (cc,)


def candidate_backward(ops, ds, s_prev, s_next, saved):
    (da,), (_, u, _), (cc,) = ds, s_prev, saved
    dcc = da * u  # a = u cc + keep
    dz = (dcc - dcc * cc * cc,)
    return dz, dz, (ops.zeros_like(da), da * cc, da)


def reset_after_forward(ops, zx, zh, s):
    (zu_x, zr_x, zc_x), (zu_h, zr_h, zc_h), (a,) = zx, zh, s
    u = ops.sigmoid(zu_x + zu_h)
    r = ops.sigmoid(zr_x + zr_h)
    cc = ops.tanh(zc_x + r * zc_h)
    return (a + u * (cc - a),), (u, r, cc, zc_h)


def reset_after_backward(ops, ds, s_prev, s_next, saved):
    (da,), (a,), (u, r, cc, zc_h) = ds, s_prev, saved
    du, dcc = da * (cc - a), da * u  # a_next = a + u (cc - a)
    dzc = dcc - dcc * cc * cc
    dr = dzc * zc_h  # zc = zc_x + r zc_h
    dzu, dzr = du * (u - u * u), dr * (r - r * r)
    return (dzu, dzr, dzc), (dzu, dzr, dzc * r), (da - da * u,)


_U, _R, _C = Gate(("Wu",), "bu"), Gate(("Wr",), "br"), Gate(("Wc",), "bc")

GRU = Cell(
    name="gru",
    states=("a",),
    stages=(
        Stage((_U, _R), out=("rat", "ut", "keept"), saved=("rt",), forward=gates_forward, backward=gates_backward),
        Stage((_C,), out=("a",), saved=("cct",), forward=candidate_forward, backward=candidate_backward),
    ),
    cache=("ut", "rt", "cct"),
)

GRU_RESET_AFTER = Cell(
    name="gru_reset_after",
    states=("a",),
    stages=(
        Stage(
            gates=(_U, _R, Gate(("Wc",), "bc", recurrent_bias="bhc")),
            out=("a",),
            saved=("ut", "rt", "cct", "hct"),
            forward=reset_after_forward,
            backward=reset_after_backward,
            additive=False,
        ),
    ),
    cache=("ut", "rt", "cct", "hct"),
)
