"""Activation functions and their backward passes.

Every ``*_backward(dy, y)`` takes the *output* y of its function, not its input.
"""

import math
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.cells import words
from rnnx.cells.expressions import Expression
from rnnx.cells.vocabulary import array_ops


@ignore_harmless_errors
def sigmoid(x: Array) -> Array:
    """Logistic function, 1 / (1 + exp(-x)), computed without overflow.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array
        Same shape and dtype as `x`; integers and booleans become the library's default float.

    Raises
    ------
    TypeError
        If `x` is not an array of float32, float64, integer or bool (on a GPU, also float16 or bfloat16).

    See Also
    --------
    sigmoid_backward, tanh

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    if isinstance(x, Expression):  # in a cell
        return words.sigmoid(x)
    xp, _, (x,) = ns.as_floats({"x": x})
    return array_ops(xp).sigmoid(x)


@ignore_harmless_errors
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = sigmoid(x): dy * (y - y^2).

    Parameters
    ----------
    dy, y : array, same shape
        Cotangent of the output, and the output itself; dtypes as for `sigmoid`.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes, or arrays of two libraries or devices.

    See Also
    --------
    sigmoid

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> y = rnnx.sigmoid(np.array([0.0, 2.0]))
    >>> rnnx.sigmoid_backward(np.ones(2), y).round(3)
    array([0.25 , 0.105])
    """
    _, dy, y = _pair(dy, y)
    return dy * (y - y * y)


@ignore_harmless_errors
def tanh(x: Array) -> Array:
    """Hyperbolic tangent; `x` and the result as for `sigmoid`.

    See Also
    --------
    tanh_backward, sigmoid

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.tanh(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.7616])
    """
    if isinstance(x, Expression):  # in a cell
        return words.tanh(x)
    xp, _, (x,) = ns.as_floats({"x": x})
    return array_ops(xp).tanh(x)


@ignore_harmless_errors
def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = tanh(x): dy * (1 - y^2); `dy` and `y` as for `sigmoid_backward`.

    See Also
    --------
    tanh

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> y = rnnx.tanh(np.array([0.0, 1.0]))
    >>> rnnx.tanh_backward(np.ones(2), y).round(4)
    array([1.  , 0.42])
    """
    _, dy, y = _pair(dy, y)
    return dy - dy * y * y


@ignore_harmless_errors
def relu(x: Array) -> Array:
    """Rectifier, max(x, 0), which keeps NaN; `x` and the result as for `sigmoid`.

    See Also
    --------
    relu_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    if isinstance(x, Expression):  # in a cell
        return words.relu(x)
    xp, _, (x,) = ns.as_floats({"x": x})
    return array_ops(xp).relu(x)


@ignore_harmless_errors
def relu_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = relu(x): dy where y > 0, else 0; `dy` and `y` as for `sigmoid_backward`.

    See Also
    --------
    relu

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> y = rnnx.relu(np.array([-1.0, 2.0]))
    >>> rnnx.relu_backward(np.ones(2), y)
    array([0., 1.])
    """
    xp, dy, y = _pair(dy, y)
    return xp.where(y > 0, dy, xp.zeros_like(dy))


@ignore_harmless_errors
def softmax(x: Array) -> Array:
    """Softmax along the first axis: exp(x) / sum(exp(x)) for each column, computed without overflow.

    Parameters
    ----------
    x : array, shape (n, ...)

    Returns
    -------
    array
        Shape and dtype as for `sigmoid`; every column sums to 1. A column that contains NaN or +infinity, or nothing
        but -infinity, becomes NaN, without a warning.

    See Also
    --------
    softmax_backward, softmax_cross_entropy

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.softmax(np.array([[0.0, 1.0], [0.0, 3.0]])).round(3)  # each column sums to 1
    array([[0.5  , 0.119],
           [0.5  , 0.881]])
    """
    xp, _, (x,) = ns.as_floats({"x": x})
    _check_columns("x", x)
    return of_columns(xp, x)


@ignore_harmless_errors
def of_columns(xp: Any, x: Array) -> Array:
    """Compute `softmax` without checks."""
    compiled = getattr(engines.operations(xp, math.prod(x.shape)), "softmax", None)
    if compiled is not None and (found := compiled(x)) is not None:
        return found
    with np.errstate(invalid="ignore"):  # as in compiled code
        e = xp.exp(x - xp.max(x, axis=0, keepdims=True))
        return e / xp.sum(e, axis=0, keepdims=True)


@ignore_harmless_errors
def softmax_backward(dy: Array, y: Array) -> Array:
    """Gradient with respect to x of y = softmax(x): y * (dy - sum(dy * y)) per column; both have shape (n, ...).

    See Also
    --------
    softmax

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> y = rnnx.softmax(np.zeros((2, 1)))
    >>> rnnx.softmax_backward(np.array([[1.0], [0.0]]), y)
    array([[ 0.25],
           [-0.25]])
    """
    xp, dy, y = _pair(dy, y)
    _check_columns("y", y)
    return y * (dy - xp.sum(dy * y, axis=0, keepdims=True))


def _pair(dy: Array, y: Array) -> tuple[Any, Array, Array]:
    """Check the arguments of a backward pass; return the namespace, and both in one dtype."""
    xp, _, (dy, y) = ns.as_floats({"dy": dy, "y": y})
    if dy.shape != y.shape:
        raise ValueError(f"`dy` must have the same shape as `y`, {tuple(y.shape)}; got {tuple(dy.shape)}")
    return xp, dy, y


def _check_columns(name: str, array: Array) -> None:
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(f"`{name}` must have shape (n, ...) with n >= 1; got {tuple(array.shape)}")
