"""Cells with means over the units."""

import rnnx
from rnnx.cells import (
    CELLS,
    Cell,
    Gate,
    Input,
    Stage,
    Vector,
    maximum,
    mean,
    minimum,
    sigmoid,
    sign,
    sqrt,
    tanh,
    where,
)  # fmt: skip


@rnnx.cell
def nested(x, a, b, *, f=Gate, g=Gate, h=Gate, v=Vector, w=Vector, e=Input):
    """Three means beneath each other, of values on both sides, of vectors alone and of inputs alone."""
    z = f(x, a)
    d = z - mean(z)
    k = d / sqrt(mean(d * d) + 0.1)
    t = tanh(g(x) + v * h(a) + mean(tanh(k) * e))
    b = t * b + mean(w * e) + mean(tanh(v)) * mean(e)
    return k * v + mean(b * t), b


@rnnx.cell
def two_products(x, a, *, r=Gate, c=Gate):
    """The operand of the second product is normalized."""
    r = sigmoid(r(x, a)) * a
    return tanh(c(x, r / sqrt(mean(r * r) + 0.1)))


@rnnx.cell
def pooled(x, a, b, *, f=Gate):
    """A state that is the same for all units, and a mean without a gradient."""
    z = tanh(f(x, a))
    return z * sign(mean(b) + 3), mean(z) - b


@rnnx.cell
def extremes(x, a, *, f=Gate, v=Vector):
    """Conditions on what a mean is computed from, on means, and on both."""
    z = tanh(f(x, a))
    k = z / sqrt(mean(z * z) + 0.1)
    return where(z > 0.1, maximum(k, v), minimum(mean(k), 0.3 * a)) + where(mean(z) > 0.05, z, 0.5)


def centred_forward(ops, zx, zh, s):
    (z_x,), (z_h,) = zx, zh
    t = ops.tanh(z_x + z_h)
    return (t - ops.mean(t),), (t,)


def centred_backward(ops, ds, s_prev, s_next, saved):
    (da,), (t,) = ds, saved
    dt = da - ops.mean(da)
    dz = (dt - dt * t * t,)
    return dz, dz, (ops.zeros_like(da),)


def unused_forward(ops, zx, zh, s):
    (z_x,), (z_h,), (a,) = zx, zh, s
    return (z_x + z_h + ops.sign(ops.mean(a)),), ()


CENTRED = Cell(
    "centred", ("a",), (Stage((Gate(("Wx", "Wh"), "b"),), ("a",), ("t",), centred_forward, centred_backward),)
)
UNUSED = Cell("unused", ("a",), (Stage((Gate(("Wx", "Wh"), "b"),), ("a",), (), unused_forward),))
NESTED, TWO_PRODUCTS, POOLED, EXTREMES = nested, two_products, pooled, extremes
MEANS = [NESTED, TWO_PRODUCTS, POOLED, EXTREMES, CENTRED, CELLS["layer_norm_lstm"], CELLS["layer_norm_gru"]]
