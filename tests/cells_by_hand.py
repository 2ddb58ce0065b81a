"""Cells of the tests, with backward functions written by hand."""

from rnnx.cells import Cell, Gate, Stage

# A cell that no table lists: the minimal gated unit (Zhou et al., arXiv:1603.09420), gated after the product.


def mgu_forward(ops, zx, zh, s):
    (zf_x, zc_x), (zf_h, zc_h), (a,) = zx, zh, s
    f = ops.sigmoid(zf_x + zf_h)
    cc = ops.tanh(zc_x + f * zc_h)
    return (a + f * (cc - a),), (f, cc, zc_h)


def mgu_backward(ops, ds, s_prev, s_next, saved):
    (da,), (a,), (f, cc, zc_h) = ds, s_prev, saved
    dcc = da * f
    dzc = dcc - dcc * cc * cc
    df = da * (cc - a) + dzc * zc_h
    dzf = df * (f - f * f)
    return (dzf, dzc), (dzf, dzc * f), (da - da * f,)


MGU = Cell(
    name="mgu",
    states=("a",),
    stages=(
        Stage(
            gates=(Gate(("Wf",), "bf", forgets=True), Gate(("Wc",), "bc", recurrent_bias="bhc")),
            out=("a",),
            saved=("ft", "cct", "hct"),
            forward=mgu_forward,
            backward=mgu_backward,
            additive=False,
        ),
    ),
    cache=("ft", "cct", "hct"),
)


# A made-up cell with three states, two stages, joint and split weights, and a stage that is not additive.


def first_forward(ops, zx, zh, s):
    (zr_x, zg_x), (zr_h, zg_h), (a, b, c) = zx, zh, s
    r = ops.sigmoid(zr_x + zr_h)
    g = ops.tanh(zg_x + zg_h)
    return (r * a, b + g, c, a), (r, g)


def first_backward(ops, ds, s_prev, s_next, saved):
    (dra, dbg, dc, da), (a, _, _), (r, g) = ds, s_prev, saved
    dr = dra * a
    dz = (dr * (r - r * r), dbg - dbg * g * g)
    return dz, dz, (dra * r + da, dbg, dc)


def second_forward(ops, zx, zh, s):
    (zn_x,), (zn_h,), (ra, bg, c, a) = zx, zh, s
    n = ops.tanh(zn_x + bg * zn_h)
    return (a + c * n, bg * n, c + ra), (n, zn_h)


def second_backward(ops, ds, s_prev, s_next, saved):
    (da, db, dc), (_, bg, c, _), (n, zn_h) = ds, s_prev, saved
    dn = da * c + db * bg
    dzn = dn - dn * n * n
    return (dzn,), (dzn * bg,), (dc, db * n + dzn * zn_h, dc + da * n, da)


TWO_STAGES = Cell(
    name="two_stages",
    states=("a", "b", "c"),
    stages=(
        Stage(
            gates=(Gate(("Wr",), "br"), Gate(("Wgx", "Wgh"), "bg")),
            out=("rat", "bgt", "c_kept", "a_kept"),
            saved=("rt", "gt"),
            forward=first_forward,
            backward=first_backward,
        ),
        Stage(
            gates=(Gate(("Wn",), "bn", recurrent_bias="bhn"),),
            out=("a", "b", "c"),
            saved=("nt", "hnt"),
            forward=second_forward,
            backward=second_backward,
            additive=False,
        ),
    ),
    cache=("rt", "nt"),
)


# Cells whose gates lack a side, with vectors and inputs: one without a product in the loop, one with gates of all three
# kinds (additive or not), and one with two stages.


def independent_forward(ops, zx, zh, s, given):
    (z,), (a,), (u,) = zx, s, given
    return (ops.tanh(z + u * a),), ()


def independent_backward(ops, ds, s_prev, s_next, saved, given):
    (da,), (a,), (new,), (u,) = ds, s_prev, s_next, given
    dz = da - da * new * new
    return (dz,), (), (dz * u,), (dz * a,)


def mixed_forward(ops, zx, zh, s, given):
    (q_x, r), (p, q_h), (a,), (v, e) = zx, zh, s, given
    t = ops.tanh(q_x + q_h + r * p + v * a)
    return (t * e,), (p, r, t)


def mixed_backward(ops, ds, s_prev, s_next, saved, given):
    (da,), (a,), (p, r, t), (v, e) = ds, s_prev, saved, given
    dt = da * e
    dz = dt - dt * t * t
    return (dz, dz * p), (dz * r, dz), (dz * v,), (dz * a, da * t)


def split_forward(ops, zx, zh, s, given):
    (q_x, r), (p, q_h), (a,), (v, e) = zx, zh, s, given
    h = ops.tanh(q_h)
    t = ops.tanh(q_x + h + r * p + v * a)
    return (t * e,), (p, r, t, h)


def split_backward(ops, ds, s_prev, s_next, saved, given):
    (da,), (a,), (p, r, t, h), (v, e) = ds, s_prev, saved, given
    dt = da * e
    dz = dt - dt * t * t
    return (dz, dz * p), (dz * r, dz - dz * h * h), (dz * v,), (dz * a, da * t)


def product_forward(ops, zx, zh, s, given):
    (m_x,), (m_h,), (_, c), (e,) = zx, zh, s, given
    return (m_x * m_h, c * e), (m_x, m_h)


def product_backward(ops, ds, s_prev, s_next, saved, given):
    (dm, dce), (_, c), (m_x, m_h), (e,) = ds, s_prev, saved, given
    return (dm * m_h,), (dm * m_x,), (ops.zeros_like(dm), dce * e), (dce * c,)


def after_product_forward(ops, zx, zh, s, given):
    (z_x,), (z_h,), (_, ce), (v,) = zx, zh, s, given
    c = ops.tanh(z_x + z_h) + ce
    return (v * c, c), ()


def after_product_backward(ops, ds, s_prev, s_next, saved, given):
    (da, dc), (_, ce), (_, c), (v,) = ds, s_prev, s_next, given
    dc = dc + da * v
    t = c - ce
    dz = (dc - dc * t * t,)
    return dz, dz, (ops.zeros_like(da), dc), (da * c,)


def _mixed(name: str, forward, backward, saved, additive: bool) -> Cell:
    gates = (Gate(("Wp",), "", sides="h"), Gate(("Wq",), "bq"), Gate(("Wr",), "br", sides="x"))
    stage = Stage(gates, ("a",), saved, forward, backward, additive, vectors=("v",), inputs=("e",))
    return Cell(name, ("a",), (stage,))


INDEPENDENT = Cell(
    "independent",
    ("a",),
    (Stage((Gate(("W",), "b", sides="x"),), ("a",), (), independent_forward, independent_backward, vectors=("u",)),),
)
MIXED = _mixed("mixed", mixed_forward, mixed_backward, ("p", "r", "t"), additive=True)
SPLIT = _mixed("split", split_forward, split_backward, ("p", "r", "t", "h"), additive=False)
PRODUCT = Cell(
    "product",
    ("a", "c"),
    (
        Stage(
            (Gate(("Wmx", "Wmh"), "bm"),),
            ("m", "ce"),
            ("mx", "mh"),
            product_forward,
            product_backward,
            False,
            (),
            ("e",),
        ),
        Stage((Gate(("Wz",), "bz"),), ("a", "c"), (), after_product_forward, after_product_backward, vectors=("v",)),
    ),
)
ONE_SIDED = (INDEPENDENT, MIXED, SPLIT, PRODUCT)
