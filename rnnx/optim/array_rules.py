"""The update rules, one function each, for the arrays of one parameter.

p is the parameter, g its gradient; v, s and m are the state. If `write`, all of them but g are updated in place where
the library allows it (JAX does not: augmented assignment then makes a new array); otherwise no input is written to.
Both ways compute the same operations, so the results are bit-identical. Every rule returns (p, *state).
"""

from typing import Any

from rnnx._core.arrays import Array


def sgd_rule(
    xp: Any, p: Array, g: Array, *, write: bool, rate: float, t: int = 1, weight_decay: float = 0.0
) -> tuple[Array, ...]:
    """``p -= rate * g``."""
    del xp, t
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
    t: int = 2,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, ...]:
    """``v = momentum * v + (1 - dampening) * g; p -= rate * v``; Nesterov looks one step ahead along the new v.

    The first gradient, at t = 1, is not dampened.
    """
    del xp
    g = _with_decay(p, g, weight_decay)
    if dampening and t > 1:
        g = (1 - dampening) * g
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
    t: int = 1,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Array, ...]:
    """``s = alpha * s + (1 - alpha) * g**2; p -= rate * g / (sqrt(s) + epsilon)``.

    `rest` holds the mean m of the gradients if `centered`, then the velocity v if there is momentum.
    """
    del t
    g = _with_decay(p, g, weight_decay)
    s = _times(s, alpha, write)
    s += (1 - alpha) * (g * g)
    state, variance = [s], s
    if centered:
        m, rest = rest[0], rest[1:]
        m = _times(m, alpha, write)
        m += (1 - alpha) * g
        state.append(m)
        # Rounding can make the variance of a constant gradient negative.
        variance = xp.maximum(s - m * m, xp.zeros_like(s))
    step = g / (xp.sqrt(variance) + epsilon)
    if momentum:
        (v,) = rest
        v = _times(v, momentum, write)
        v += step
        state.append(v)
        step = v
    return _minus(p, rate * step, write), *state


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
    # Numerator and denominator are both multiplied by sqrt(1 - beta2**t), which saves one pass over the array.
    root = (1 - beta2**t) ** 0.5
    denominator = xp.sqrt(s)
    denominator += epsilon * root
    step = v / denominator
    step *= rate * root / (1 - beta1**t)
    return _minus(p, step, write or decoupled), v, s


def _with_decay(p: Array, g: Array, weight_decay: float) -> Array:
    """Return the gradient of loss + weight_decay / 2 * p**2."""
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
