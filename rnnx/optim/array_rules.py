"""The update rules, each once, for the arrays of one parameter.

p is the parameter, g its gradient, v, s and m what the rule remembers. If `write`, all but g are written to where they
can be (an array of JAX cannot, and an augmented assignment makes a new one); else none is, and only what is new is
written to. The operations are the same, and so are the bits. Every rule returns (p, *what it remembers).
"""

from typing import Any

from rnnx._core.arrays import Array


def sgd_rule(xp: Any, p: Array, g: Array, *, write: bool, rate: float, weight_decay: float = 0.0) -> tuple[Array, ...]:
    """``p -= rate * g``."""
    del xp
    return (_minus(p, rate * _with_decay(p, g, weight_decay), write),)


def momentum_rule(
    xp: Any,
    p: Array,
    g: Array,
    v: Array,
    *,
    write: bool,
    rate: float,
    momentum: float,
    share: float = 1.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, ...]:
    """``v = momentum * v + share * g; p -= rate * v``; Nesterov's looks one step ahead along the new v."""
    del xp
    g = _with_decay(p, g, weight_decay)
    if share != 1:
        g = share * g
    v = _times(v, momentum, write)
    v += g
    return _minus(p, rate * (g + momentum * v if nesterov else v), write), v


def rmsprop_rule(
    xp: Any,
    p: Array,
    g: Array,
    s: Array,
    *rest: Array,
    write: bool,
    rate: float,
    alpha: float,
    epsilon: float,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, ...]:
    """``s = alpha * s + (1 - alpha) * g**2; p -= rate * g / (sqrt(s) + epsilon)``.

    `rest` is the mean m of the gradients if `centered`, and then the velocity v if there is momentum.
    """
    g = _with_decay(p, g, weight_decay)
    s = _times(s, alpha, write)
    s += (1 - alpha) * (g * g)
    kept, variance = [s], s
    if centered:
        m, rest = rest[0], rest[1:]
        m = _times(m, alpha, write)
        m += (1 - alpha) * g
        kept.append(m)
        # Rounding may leave less than nothing of the variance of a gradient that stays the same.
        variance = xp.maximum(s - m * m, xp.zeros_like(s))
    step = g / (xp.sqrt(variance) + epsilon)
    if momentum:
        (v,) = rest
        v = _times(v, momentum, write)
        v += step
        kept.append(v)
        step = v
    return _minus(p, rate * step, write), *kept


def adam_rule(
    xp: Any,
    p: Array,
    g: Array,
    v: Array,
    s: Array,
    *,
    write: bool,
    t: int,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> tuple[Array, ...]:
    """Adam; with decoupled weight decay, AdamW."""
    if decoupled:
        p = _times(p, 1 - rate * weight_decay, write)
    else:
        g = _with_decay(p, g, weight_decay)
    v = _times(v, beta1, write)
    v += (1 - beta1) * g
    s = _times(s, beta2, write)
    s += (1 - beta2) * (g * g)
    # Both sides of the fraction times the root of 1 - beta2**t: one pass over the array less.
    root = (1 - beta2**t) ** 0.5
    denominator = xp.sqrt(s)
    denominator += epsilon * root
    step = v / denominator
    step *= rate * root / (1 - beta1**t)
    return _minus(p, step, write or decoupled), v, s


def _with_decay(p: Array, g: Array, weight_decay: float) -> Array:
    """The gradient of loss + weight_decay / 2 * p**2."""
    return g + weight_decay * p if weight_decay else g


def _times(a: Array, factor: float, write: bool) -> Array:
    if not write:
        return a * factor
    a *= factor
    return a


def _minus(p: Array, step: Array, write: bool) -> Array:
    if not write:
        return p - step
    p -= step
    return p
