"""The dense output layer, the losses, and one-hot columns, for all time steps at once."""

import math
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_lengths, check_shape
from rnnx._core.layout import to_time_major, valid_examples
from rnnx.functional.losses import CROSS_ENTROPY, SQUARED_ERROR


def _columns(xp: Any, a: Array) -> Array:
    """Reshape (n, m, T) to (T m, n), as a view if `a` is in Fortran order."""
    return xp.reshape(to_time_major(xp, a), (math.prod(a.shape[1:]), a.shape[0]))


def _uncolumns(xp: Any, rows: Array, shape: tuple[int, ...]) -> Array:
    """Reshape (T m, n) to (n, m, T)."""
    return ns.reversed_axes(xp, xp.reshape(rows, (*shape[:0:-1], rows.shape[1])))


def dense_forward(a: Array, W: Array, b: Array) -> Array:
    """Compute z = W a + b for every example and step.

    Parameters
    ----------
    a : array, shape (n_a, m, T_x) or (n_a, m)
        Integer and bool are converted to the dtype of `W` and `b`.
    W : array, shape (n_y, n_a)
    b : array, shape (n_y, 1)

    Returns
    -------
    z : array, shape (n_y, m, T_x) or (n_y, m)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or dtypes, or arrays of two libraries or devices.

    See Also
    --------
    dense_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.dense_forward(np.ones((3, 2)), np.full((1, 3), 2.0), np.zeros((1, 1)))
    array([[6., 6.]])
    """
    xp, _, (a, W, b) = ns.as_floats({"a": a}, {"W": W, "b": b})
    _check_dense(a, W)
    check_shape("b", b, "(n_y, 1)", (W.shape[0], 1))
    return dense(xp, a, W, b)


def dense(xp: Any, a: Array, W: Array, b: Array) -> Array:
    """Compute `dense_forward` without checks, for arrays of one dtype."""
    if a.ndim == 2:
        return engines.matmul(xp, a.T, W.T, b[:, 0]).T
    z = engines.matmul(xp, _columns(xp, a), W.T, b[:, 0])
    return _uncolumns(xp, z, tuple(a.shape))


def dense_backward(dz: Array, a: Array, W: Array) -> dict[str, Array]:
    """Compute the gradients of `dense_forward`, with the same errors.

    Parameters
    ----------
    dz : array, shape (n_y, m, T_x) or (n_y, m)
        Cotangent of z.
    a : array, shape (n_a, m, T_x) or (n_a, m)
    W : array, shape (n_y, n_a)

    Returns
    -------
    gradients : dict
        da (shape of a), dW (n_y, n_a), db (n_y, 1).

    See Also
    --------
    dense_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> gradients = rnnx.dense_backward(np.ones((1, 2)), np.ones((3, 2)), np.full((1, 3), 2.0))
    >>> gradients["dW"]
    array([[2., 2., 2.]])
    """
    da, dW, db = dense_gradients(*checked_dense_backward(dz, a, W))
    return {"da": da, "dW": dW, "db": db}


def checked_dense_backward(dz: Array, a: Array, W: Array) -> tuple[Any, Array, Array, Array]:
    """Check the arguments of `dense_backward`; return their namespace, and the arrays in one dtype."""
    xp, _, (dz, a, W) = ns.as_floats({"dz": dz, "a": a}, {"W": W})
    _check_dense(a, W)
    check_shape("dz", dz, "(n_y, m, T_x)" if a.ndim == 3 else "(n_y, m)", (W.shape[0], *a.shape[1:]))
    return xp, dz, a, W


def dense_gradients(xp: Any, dz: Array, a: Array, W: Array) -> tuple[Array, Array, Array]:
    """Return da, dW and db of `dense_backward` without checks, for arrays of one dtype."""
    rows, of_a = _columns(xp, dz), _columns(xp, a)
    found = engines.dense_gradients(xp, rows, of_a, W)
    if found is not None:
        return _uncolumns(xp, found[0], tuple(a.shape)), *found[1:]
    da = _uncolumns(xp, engines.matmul(xp, rows, W), tuple(a.shape))
    dW = engines.matmul(xp, rows.T, of_a)
    if dz.ndim == 3:  # over steps first, in long rows
        rows = xp.sum(xp.reshape(rows, tuple(dz.shape)[::-1]), axis=0)
    return da, dW, xp.expand_dims(xp.sum(rows, axis=0), axis=1)


def _check_dense(a: Array, W: Array) -> None:
    if a.ndim not in (2, 3):
        raise ValueError(f"`a` must have shape (n_a, m, T_x) or (n_a, m); got {tuple(a.shape)}")
    if W.ndim != 2 or W.shape[1] != a.shape[0]:
        raise ValueError(f"`W` must have shape (n_y, n_a) = (n_y, {a.shape[0]}); got {tuple(W.shape)}")


def softmax_cross_entropy(z: Array, targets: Array, *, lengths: Any = None) -> tuple[Array, Array]:
    r"""Compute the mean negative log-likelihood of `targets` under softmax(z), and its gradient.

    .. math:: L = -\frac{1}{N} \sum \log \mathrm{softmax}(z)_{target}, \qquad
        \partial L / \partial z = (\mathrm{softmax}(z) - \mathrm{onehot}(target)) / N

    where the sum runs over the N positions within the lengths.

    Parameters
    ----------
    z : array, shape (n_y, m, T_x)
        Logits; integer and bool are converted to the library's default float.
    targets : array of int, shape (m, T_x)
        Class indices in [0, n_y). Entries past an example's length are ignored.
    lengths : sequence or array of int, shape (m,), optional
        Number of steps of each example; default T_x.

    Returns
    -------
    loss : array, shape ()
        In nats; zero if all lengths are zero.
    dz : array, shape (n_y, m, T_x)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes or lengths, or NumPy targets out of range (those of other libraries are not checked).

    See Also
    --------
    softmax, squared_error

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> loss, dz = rnnx.softmax_cross_entropy(np.zeros((4, 2, 3)), np.array([[0, 1, 2], [3, 0, 1]]))
    >>> print(f"{loss:.4f}")  # log(4), of guessing
    1.3863
    >>> dz.shape
    (4, 2, 3)
    """
    ns.common_namespace({"z": z, "targets": targets})
    xp, device, (z,) = ns.as_floats({"z": z})
    if z.ndim != 3 or z.shape[0] == 0:
        raise ValueError(f"`z` must have shape (n_y, m, T_x) with n_y >= 1; got {tuple(z.shape)}")
    n_y, m, n_steps = z.shape
    check_shape("targets", targets, "(m, T_x)", (m, n_steps))
    if not ns.is_integer(xp, targets):
        raise TypeError(f"`targets` must hold integers; got dtype {targets.dtype}")
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, n_steps)
    within = ns.is_on_host(targets) and ends is not None
    check_indices("targets", targets[valid_examples(xp, ends, n_steps)] if within else targets, "n_y", n_y)
    return cross_entropy(xp, z, targets, ends)


def cross_entropy(xp: Any, z: Array, targets: Array, ends: Array | None = None) -> tuple[Array, Array]:
    """Compute `softmax_cross_entropy` without checks; `ends` is an array of lengths (m,), or None."""
    return engines.operations(xp, z.shape[1] * z.shape[2]).loss(CROSS_ENTROPY, z, targets, ends)


def squared_error(y: Array, targets: Array, *, lengths: Any = None) -> tuple[Array, Array]:
    r"""Compute the mean squared error and its gradient.

    .. math:: L = \frac{1}{N} \sum (y - target)^2, \qquad \partial L / \partial y = 2 (y - target) / N

    where the sum runs over the N entries within the lengths.

    Parameters
    ----------
    y : array, shape (n_y, m, T_x)
    targets : array, shape (n_y, m, T_x)
        Both are converted to one floating dtype: that of the one that is floating, or the wider one.
    lengths : sequence or array of int, shape (m,), optional
        As for `softmax_cross_entropy`.

    Returns
    -------
    loss : array, shape ()
        Zero if all lengths are zero.
    dy : array, shape (n_y, m, T_x)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes or lengths, or arrays of two libraries or devices.

    See Also
    --------
    softmax_cross_entropy

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> loss, dy = rnnx.squared_error(np.zeros((1, 1, 2)), np.array([[[1.0, 3.0]]]))
    >>> print(loss, dy)
    5.0 [[[-1. -3.]]]
    """
    xp, device, (y, targets) = ns.as_floats({"y": y, "targets": targets})
    if y.ndim != 3:
        raise ValueError(f"`y` must have shape (n_y, m, T_x); got {tuple(y.shape)}")
    n_y, m, n_steps = y.shape
    check_shape("targets", targets, "(n_y, m, T_x)", (n_y, m, n_steps))
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, n_steps)
    return squares(xp, y, targets, ends)


def squares(xp: Any, y: Array, targets: Array, ends: Array | None = None) -> tuple[Array, Array]:
    """Compute `squared_error` without checks, for arrays of one dtype; `ends` is an array of lengths (m,), or None."""
    return engines.operations(xp, y.shape[1] * y.shape[2]).loss(SQUARED_ERROR, y, targets, ends)
