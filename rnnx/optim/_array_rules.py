"""The update rules, each once, for the arrays of one parameter.

p is the parameter, g its gradient, v, s and m what the rule remembers. All but g may be written to, by augmented
assignments, which on arrays that nobody can write to make new ones: so every rule returns (p, *what it remembers).
See `rnnx.optim._apply`.
"""

from typing import Any

from rnnx._namespace import Array


def sgd_rule(xp: Any, p: Array, g: Array, *, rate: float, weight_decay: float = 0.0) -> tuple[Array, ...]:
    """``p -= rate * g``."""
    del xp
    p -= rate * _with_decay(p, g, weight_decay)
    return (p,)


def momentum_rule(
    xp: Any,
    p: Array,
    g: Array,
    v: Array,
    *,
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
    v *= momentum
    v += g
    p -= rate * (g + momentum * v if nesterov else v)
    return p, v


def rmsprop_rule(
    xp: Any,
    p: Array,
    g: Array,
    s: Array,
    *rest: Array,
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
    s *= alpha
    s += (1 - alpha) * (g * g)
    kept, variance = [s], s
    if centered:
        m, rest = rest[0], rest[1:]
        m *= alpha
        m += (1 - alpha) * g
        kept.append(m)
        # Rounding may leave less than nothing of the variance of a gradient that stays the same.
        variance = xp.maximum(s - m * m, xp.zeros_like(s))
    step = g / (xp.sqrt(variance) + epsilon)
    if momentum:
        (v,) = rest
        v *= momentum
        v += step
        kept.append(v)
        step = v
    p -= rate * step
    return p, *kept


def adam_rule(
    xp: Any,
    p: Array,
    g: Array,
    v: Array,
    s: Array,
    *,
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
        p *= 1 - rate * weight_decay
    else:
        g = _with_decay(p, g, weight_decay)
    v *= beta1
    v += (1 - beta1) * g
    s *= beta2
    s += (1 - beta2) * (g * g)
    # Both sides of the fraction times the root of 1 - beta2**t: one pass over the array less.
    root = (1 - beta2**t) ** 0.5
    denominator = xp.sqrt(s)
    denominator += epsilon * root
    step = v / denominator
    step *= rate * root / (1 - beta1**t)
    p -= step
    return p, v, s


def _with_decay(p: Array, g: Array, weight_decay: float) -> Array:
    """The gradient of loss + weight_decay / 2 * p**2."""
    return g + weight_decay * p if weight_decay else g
