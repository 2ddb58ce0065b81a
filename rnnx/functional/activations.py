"""Activation functions and their backward passes.

Every ``*_backward(dy, y)`` takes the *output* y of its function, not its input.
"""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells.vocabulary import array_ops


@ns.underflow_is_zero
def sigmoid(x: Array) -> Array:
    """Logistic function, 1 / (1 + exp(-x)), computed without overflow.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array
        Same shape and dtype as `x`; integers and booleans become the library's default float.
    """
    xp, x = _floating(x)
    return array_ops(xp).sigmoid(x)


@ns.underflow_is_zero
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = sigmoid(x): dy * (y - y^2).

    Parameters
    ----------
    dy, y : array, same shape
        Cotangent of the output, and the output itself.
    """
    _check_pair(dy, y)
    return dy * (y - y * y)


@ns.underflow_is_zero
def tanh(x: Array) -> Array:
    """Hyperbolic tangent; `x` and the result as for `sigmoid`."""
    xp, x = _floating(x)
    return array_ops(xp).tanh(x)


@ns.underflow_is_zero
def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = tanh(x): dy * (1 - y^2); `dy` and `y` as for `sigmoid_backward`."""
    _check_pair(dy, y)
    return dy - dy * y * y


def relu(x: Array) -> Array:
    """Rectifier, max(x, 0), which keeps NaN; `x` and the result as for `sigmoid`."""
    xp, x = _floating(x)
    return array_ops(xp).relu(x)


def relu_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = relu(x): dy where y > 0, else 0; `dy` and `y` as for `sigmoid_backward`."""
    xp = _check_pair(dy, y)
    return xp.where(y > 0, dy, xp.zeros_like(dy))


@ns.underflow_is_zero
def softmax(x: Array) -> Array:
    """Softmax along the first axis: exp(x) / sum(exp(x)) for each column, computed without overflow.

    Parameters
    ----------
    x : array, shape (n, ...)

    Returns
    -------
    array
        Shape and dtype as for `sigmoid`; every column sums to 1.
    """
    xp, x = _floating(x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"`x` must have shape (n, ...) with n >= 1; got {tuple(x.shape)}")
    e = xp.exp(x - xp.max(x, axis=0, keepdims=True))
    return e / xp.sum(e, axis=0, keepdims=True)


@ns.underflow_is_zero
def softmax_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = softmax(x): y * (dy - sum(dy * y)) per column; both have shape (n, ...)."""
    xp = _check_pair(dy, y)
    return y * (dy - xp.sum(dy * y, axis=0, keepdims=True))


def _floating(x: Array) -> tuple[Any, Array]:
    """Return the namespace and `x`, with integers and booleans converted to the library's default float."""
    xp, _ = ns.common_namespace({"x": x})
    if xp.isdtype(x.dtype, "real floating"):
        return xp, x
    if not xp.isdtype(x.dtype, ("integral", "bool")):
        raise TypeError(f"`x` must be real-valued; got dtype {x.dtype}")
    return xp, xp.astype(x, xp.asarray(0.0).dtype)


def _check_pair(dy: Array, y: Array) -> Any:
    """Check that the shapes are equal; return the namespace."""
    xp, _ = ns.common_namespace({"dy": dy, "y": y})
    if tuple(dy.shape) != tuple(y.shape):
        raise ValueError(f"`dy` must have the same shape as `y`, {tuple(y.shape)}; got {tuple(dy.shape)}")
    return xp
