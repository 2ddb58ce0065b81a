"""Activation functions and their backward passes, on arrays of any library.

Every ``*_backward(dy, y)`` takes the *output* y of its function, not its input, because the output is what a forward
pass keeps. Confusing the two is the most common error in hand-written backward passes.
"""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells.vocabulary import array_ops


def _floating(name: str, x: Array) -> tuple[Any, Array]:
    """Return the namespace, and `x`, converted to the library's default float if it holds integers or booleans."""
    xp, _ = ns.common_namespace({name: x})
    if xp.isdtype(x.dtype, "real floating"):
        return xp, x
    if not xp.isdtype(x.dtype, ("integral", "bool")):
        raise TypeError(f"`{name}` must be real; got dtype {x.dtype}")
    return xp, xp.astype(x, xp.asarray(0.0).dtype)


def sigmoid(x: Array) -> Array:
    """Logistic function, 1 / (1 + exp(-x)), computed without overflow.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array
        Same shape and dtype as `x`; integers become the library's default float.
    """
    xp, x = _floating("x", x)
    return array_ops(xp).sigmoid(x)


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = sigmoid(x): dy * (y - y^2).

    Parameters
    ----------
    dy, y : array, same shape
        Cotangent of the output, and the output itself.
    """
    _pair(dy, y)
    return dy * (y - y * y)


def tanh(x: Array) -> Array:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array
        Same shape and dtype as `x`; integers become the library's default float.
    """
    xp, x = _floating("x", x)
    return array_ops(xp).tanh(x)


def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = tanh(x): dy * (1 - y^2).

    Parameters
    ----------
    dy, y : array, same shape
        Cotangent of the output, and the output itself.
    """
    _pair(dy, y)
    return dy - dy * y * y


def relu(x: Array) -> Array:
    """Rectifier, max(x, 0). NaN stays NaN.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array
        Same shape and dtype as `x`; integers become the library's default float.
    """
    xp, x = _floating("x", x)
    return array_ops(xp).relu(x)


def relu_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = relu(x): dy where y > 0, else 0.

    Parameters
    ----------
    dy, y : array, same shape
        Cotangent of the output, and the output itself.
    """
    xp = _pair(dy, y)
    return xp.where(y > 0, dy, xp.zeros_like(dy))


def softmax(x: Array) -> Array:
    """Softmax along the first axis, exp(x) / sum(exp(x)) of every column.

    The maximum of each column is subtracted first, so exp cannot overflow and the sum cannot be zero.

    Parameters
    ----------
    x : array, shape (n, ...)
        For instance (n_y, m) or (n_y, m, T_x).

    Returns
    -------
    array
        Same shape and dtype as `x`; every column sums to 1.
    """
    xp, x = _floating("x", x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"`x` must have shape (n, ...) with n >= 1; got {tuple(x.shape)}")
    e = xp.exp(x - xp.max(x, axis=0, keepdims=True))
    return e / xp.sum(e, axis=0, keepdims=True)


def softmax_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = softmax(x): y * (dy - sum(dy * y)) of every column.

    Parameters
    ----------
    dy, y : array, shape (n, ...)
        Cotangent of the output, and the output itself.
    """
    xp = _pair(dy, y)
    return y * (dy - xp.sum(dy * y, axis=0, keepdims=True))


def _pair(dy: Array, y: Array) -> Any:
    """Check that the shapes are equal; return the namespace."""
    xp, _ = ns.common_namespace({"dy": dy, "y": y})
    if tuple(dy.shape) != tuple(y.shape):
        raise ValueError(f"`dy` must have the shape of `y`, {tuple(y.shape)}; got {tuple(dy.shape)}")
    return xp
