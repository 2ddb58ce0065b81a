"""The words of the vocabulary as functions, for cells that `rnnx.cell` traces.

They are named after the fields of `rnnx.cells.vocabulary.Ops`, and take values of a cell and numbers. A value may be
compared with ``>`` and ``<``; the result can only be the condition of `where`.
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
    """Return the larger of two values."""
    return apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Expression:
    """Return the smaller of two values."""
    return apply("minimum", a, b)


def where(condition: Expression, a: Any, b: Any) -> Expression:
    """Return `a` where a condition such as ``x > 0`` holds, else `b`."""
    return apply("where", condition, a, b)


def layer_norm(z: Any, gain: Any, epsilon: float = 1e-5) -> Any:
    """Return ``gain (z - mean) / sqrt(variance + epsilon)``, with mean and variance of z over the units of the layer.

    Source: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450.
    """
    centred = z - mean(z)
    return gain * (centred * (1 / sqrt(mean(centred * centred) + epsilon)))
