"""The words of the vocabulary as functions, for cells that `rnnx.cell` traces.

They are named after the fields of `rnnx.cells.vocabulary.Ops`, and take values of a cell and numbers. A value may be
compared with ``>`` and ``<``; the result can only be the condition of `where`.

Examples
--------
>>> import rnnx
>>> from rnnx.cells import exp, softplus, where
>>> @rnnx.cell
... def selective(x, a, *, z=rnnx.Gate, c=rnnx.Gate):
...     decay = exp(-softplus(z(x, a)))  # between 0 and 1
...     c = c(x, a)
...     c = where(c > 0, c, 0.1 * c)  # leaky
...     return decay * a + (1 - decay) * c
>>> forward = selective.explain().partition("Forward:")[2].partition("Saved")[0]
>>> print(forward.strip())
saved0_0 = c_x + c_h
    t0 = where(greater(saved0_0, 0.0), saved0_0, 0.1 * saved0_0)
    t1 = z_x + z_h
    saved0_1 = exp(-softplus(t1))
    a = saved0_1 * a_prev + (1.0 - saved0_1) * t0
    saved0_2 = sigmoid(t1)
"""

from collections.abc import Callable
from typing import Any

from rnnx.cells.expressions import Expression


def apply(word: str, *arguments: Any) -> Expression:
    """Apply a word to values of a cell and numbers, of which at least one is a value."""
    for argument in arguments:
        if isinstance(argument, Expression):
            return argument.graph.apply(word, *arguments)
    got = ", ".join(type(argument).__name__ for argument in arguments)
    raise TypeError(f"`{word}` takes values of a cell that is being traced; got {got}")


def _unary(word: str, doc: str) -> Callable[[Any], Expression]:
    def function(x: Any) -> Expression:
        return apply(word, x)

    function.__name__ = function.__qualname__ = word
    function.__doc__ = doc
    return function


tanh = _unary("tanh", "Hyperbolic tangent.")
sigmoid = _unary("sigmoid", "Logistic function, 1 / (1 + exp(-x)).")
relu = _unary("relu", "max(x, 0).")
exp = _unary("exp", "Exponential.")
log = _unary("log", "Natural logarithm.")
sqrt = _unary("sqrt", "Square root.")
sign = _unary("sign", "-1, 0 or 1; its derivative is 0.")
softplus = _unary("softplus", "log(1 + exp(x)).")
log_sigmoid = _unary("log_sigmoid", "log(sigmoid(x)).")
floor = _unary("floor", "The largest integer that is not larger; its derivative is 0.")
sin = _unary("sin", "Sine.")
cos = _unary("cos", "Cosine.")
gelu = _unary("gelu", "Gaussian error linear unit.")
mean = _unary("mean", "Mean over the units of the layer, for every example.")


def maximum(a: Any, b: Any) -> Expression:
    """Return the larger of two values.

    See Also
    --------
    minimum, relu, where

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> from rnnx.cells import maximum, minimum
    >>> @rnnx.cell
    ... def clipped(x, a, *, c=rnnx.Gate):
    ...     return minimum(maximum(c(x, a), -1), 1)
    >>> parameters = {"Wc": np.array([[0.0, 1.0]]), "bc": np.zeros((1, 1))}
    >>> (a,), _, _ = rnnx.recurrent_forward(clipped, np.array([[[0.5, 3.0, -3.0]]]), (), parameters)
    >>> a
    array([[[ 0.5,  1. , -1. ]]])
    """
    return apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Expression:
    """Return the smaller of two values.

    See Also
    --------
    maximum, where

    Examples
    --------
    >>> import rnnx
    >>> from rnnx.cells import minimum, relu
    >>> @rnnx.cell
    ... def bounded(x, a, *, c=rnnx.Gate):
    ...     return minimum(relu(c(x, a)), 6)
    >>> bounded.states
    ('a',)
    """
    return apply("minimum", a, b)


def where(condition: Expression, a: Any, b: Any) -> Expression:
    """Return `a` where a condition such as ``x > 0`` holds, else `b`.

    See Also
    --------
    maximum, sign, floor

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> from rnnx.cells import where
    >>> @rnnx.cell
    ... def latch(x, a, *, c=rnnx.Gate):
    ...     z = c(x, a)
    ...     return where(z > 1, z, a)  # keep what was seen last above the threshold
    >>> latch.states, latch.parameter_keys
    (('a',), ('Wc', 'bc'))
    """
    return apply("where", condition, a, b)


def layer_norm(z: Any, gain: Any, epsilon: float = 1e-5) -> Any:
    """Return ``gain (z - mean) / sqrt(variance + epsilon)``, with mean and variance of z over the units of the layer.

    Given tuples of values and gains, return a tuple of the values, normalized together: with mean and variance over the
    units of all of them.

    Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450.

    See Also
    --------
    mean, rnnx.cell

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> from rnnx.cells import layer_norm, tanh
    >>> @rnnx.cell
    ... def normalized(x, a, *, c=rnnx.Gate, gain=rnnx.Vector):
    ...     return tanh(layer_norm(c(x, a), gain))
    >>> parameters = rnnx.initialize_parameters(normalized, n_x=3, n_a=5, rng=0)
    >>> (a,), _, _ = rnnx.recurrent_forward(normalized, np.ones((3, 1, 1)), (), parameters)
    >>> bool(abs(np.arctanh(a).mean()) < 1e-6)  # with gains of 1
    True
    """
    if isinstance(z, tuple):
        return _normalized(z, gain, epsilon)
    return _normalized((z,), (gain,), epsilon)[0]


def _normalized(zs: tuple[Any, ...], gains: tuple[Any, ...], epsilon: float) -> tuple[Any, ...]:
    def mean_of_all(values: list[Any]) -> Any:
        total = mean(sum(values[1:], values[0]))
        return total if len(values) == 1 else total / len(values)

    middle = mean_of_all(list(zs))
    centred = [z - middle for z in zs]
    scale = 1 / sqrt(mean_of_all([z * z for z in centred]) + epsilon)
    return tuple([gain * (z * scale) for gain, z in zip(gains, centred, strict=True)])
