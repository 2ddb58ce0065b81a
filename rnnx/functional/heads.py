"""What stands on the hidden states: the dense layer and the losses, over all time steps at once; and one-hot columns.

Arrays are public, features first: (n, m, T) or, for a single step, (n, m).
"""

import math
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, check_shape
from rnnx._core.layout import valid_examples, zero_past_end


def _columns(xp: Any, a: Array) -> Array:
    """(n, m, T) to (T m, n): one row per column; a view if `a` is in Fortran order."""
    rows = math.prod(a.shape[1:])
    return xp.reshape(ns.contiguous(xp, xp.permute_dims(a, tuple(range(a.ndim))[::-1])), (rows, a.shape[0]))


def _uncolumns(xp: Any, rows: Array, shape: tuple[int, ...]) -> Array:
    """(T m, n) to (n, m, T)."""
    return xp.permute_dims(xp.reshape(rows, (*shape[:0:-1], rows.shape[1])), tuple(range(len(shape)))[::-1])


def dense_forward(a: Array, W: Array, b: Array) -> Array:
    """Z = W a + b of every column.

    Parameters
    ----------
    a : array, shape (n_a, m, T_x) or (n_a, m)
    W : array, shape (n_y, n_a)
    b : array, shape (n_y, 1)

    Returns
    -------
    z : array, shape (n_y, m, T_x) or (n_y, m)

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, or arrays of two libraries or devices.
    """
    xp, _ = ns.common_namespace({"a": a, "W": W, "b": b})
    _check_dense(a, W)
    check_shape("b", b, "(n_y, 1)", (W.shape[0], 1))
    z = engines.matmul(xp, _columns(xp, a), xp.matrix_transpose(W), xp.reshape(b, (-1,)))
    return _uncolumns(xp, z, tuple(a.shape))


def dense_backward(dz: Array, a: Array, W: Array) -> tuple[Array, Array, Array]:
    """Gradients of `dense_forward`.

    Parameters
    ----------
    dz : array, shape (n_y, m, T_x) or (n_y, m)
        Cotangent of z.
    a : array, shape (n_a, m, T_x) or (n_a, m)
    W : array, shape (n_y, n_a)

    Returns
    -------
    da : array, shape of a
    dW : array, shape (n_y, n_a)
    db : array, shape (n_y, 1)
    """
    xp, _ = ns.common_namespace({"dz": dz, "a": a, "W": W})
    _check_dense(a, W)
    check_shape("dz", dz, "(n_y, m, T_x)" if a.ndim == 3 else "(n_y, m)", (W.shape[0], *a.shape[1:]))
    rows = _columns(xp, dz)
    da = _uncolumns(xp, engines.matmul(xp, rows, W), tuple(a.shape))
    dW = engines.matmul(xp, xp.matrix_transpose(rows), _columns(xp, a))
    return da, dW, xp.expand_dims(xp.sum(rows, axis=0), axis=1)


def _check_dense(a: Array, W: Array) -> None:
    if a.ndim not in (2, 3):
        raise ValueError(f"`a` must have shape (n_a, m, T_x) or (n_a, m); got {tuple(a.shape)}")
    if W.ndim != 2 or W.shape[1] != a.shape[0]:
        raise ValueError(f"`W` must have shape (n_y, n_a) = (n_y, {a.shape[0]}); got {tuple(W.shape)}")


def softmax_cross_entropy(z: Array, targets: Array, lengths: Any = None) -> tuple[Array, Array]:
    r"""Mean negative log-likelihood of `targets` under softmax(z), and its gradient.

    .. math:: L = -\frac{1}{N} \sum \log \mathrm{softmax}(z)_{target}, \qquad
        \partial L / \partial z = (\mathrm{softmax}(z) - \mathrm{onehot}(target)) / N

    with the sum over the N valid positions.

    Parameters
    ----------
    z : array, shape (n_y, m, T_x)
        Logits.
    targets : array of int, shape (m, T_x)
        Index of the right class, 0 to n_y - 1. Values past an example's end are ignored.
    lengths : sequence or array of int, shape (m,), optional
        Steps of each example.

    Returns
    -------
    loss : array, shape ()
        In nats; zero if there is no valid position.
    dz : array, shape (n_y, m, T_x)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, dtypes or lengths. A target out of range is an error where its value can be known
        without waiting for a device, that is for NumPy arrays.
    """
    xp, device = ns.common_namespace({"z": z, "targets": targets})
    if z.ndim != 3 or z.shape[0] == 0:
        raise ValueError(f"`z` must have shape (n_y, m, T_x) with n_y >= 1; got {tuple(z.shape)}")
    n_y, m, n_steps = z.shape
    check_shape("targets", targets, "(m, T_x)", (m, n_steps))
    if not ns.is_integer(xp, targets):
        raise TypeError(f"`targets` must hold integers; got dtype {targets.dtype}")
    valid = xp.ones((m, n_steps), dtype=xp.bool, device=device)
    if lengths is not None:
        valid = valid_examples(xp, check_lengths(xp, device, lengths, m, n_steps), n_steps)
    targets = ns.as_index(xp, targets)
    if ns.is_on_host(targets) and bool(xp.any(valid & ((targets < 0) | (targets >= n_y)))):
        raise ValueError(f"`targets` must be from 0 to n_y - 1 = {n_y - 1}")

    classes = xp.reshape(xp.arange(n_y, dtype=targets.dtype, device=device), (n_y, 1, 1))
    target = classes == xp.expand_dims(targets, axis=0)
    shifted = z - xp.max(z, axis=0, keepdims=True)
    e = xp.exp(shifted)
    total = xp.sum(e, axis=0)
    # `where`, not products with 0 and 1: logits may be infinite, and anything may stand past the end.
    nll = xp.log(total) - xp.sum(xp.where(target, shifted, xp.zeros_like(z)), axis=0)
    count = xp.sum(xp.astype(valid, z.dtype))
    count = xp.maximum(count, xp.ones_like(count))
    dz = (e / xp.expand_dims(total, axis=0) - xp.astype(target, z.dtype)) / count
    loss = xp.sum(xp.where(valid, nll, xp.zeros_like(nll))) / count
    return loss, xp.where(xp.expand_dims(valid, axis=0), dz, xp.zeros_like(dz))


def squared_error(y: Array, targets: Array, lengths: Any = None) -> tuple[Array, Array]:
    r"""Mean squared error, and its gradient.

    .. math:: L = \frac{1}{N} \sum (y - target)^2, \qquad \partial L / \partial y = 2 (y - target) / N

    with the sum over the N valid numbers.

    Parameters
    ----------
    y : array, shape (n_y, m, T_x)
        Predictions.
    targets : array, shape (n_y, m, T_x)
        Values past an example's end are ignored.
    lengths : sequence or array of int, shape (m,), optional
        Steps of each example.

    Returns
    -------
    loss : array, shape ()
        Zero if there is no valid number.
    dy : array, shape (n_y, m, T_x)

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or lengths, or arrays of two libraries or devices.
    """
    xp, device = ns.common_namespace({"y": y, "targets": targets})
    if y.ndim != 3:
        raise ValueError(f"`y` must have shape (n_y, m, T_x); got {tuple(y.shape)}")
    n_y, m, n_steps = y.shape
    check_shape("targets", targets, "(n_y, m, T_x)", (n_y, m, n_steps))
    difference = y - ns.astype(xp, targets, y.dtype)
    count = n_y * m * n_steps
    if lengths is not None:
        checked = check_lengths(xp, device, lengths, m, n_steps)
        difference = zero_past_end(xp, difference, checked)
        count = n_y * xp.astype(xp.maximum(xp.sum(checked), xp.asarray(1, dtype=checked.dtype, device=device)), y.dtype)
    else:
        count = max(count, 1)
    return xp.sum(difference * difference) / count, 2 * difference / count


def one_hot(indices: Array, vocab_size: int, dtype: str = "float32", xp: Any = None) -> Array:
    """Columns with a single 1, for models that do not take indices.

    Parameters
    ----------
    indices : array of int, shape (m, T) or (m,)
    vocab_size : int
    dtype : str
        Of the result, as the library names it.
    xp : module, optional
        Array namespace of the result, for instance ``cupy``; default: that of `indices`.

    Returns
    -------
    x : array, shape (vocab_size, m, T) or (vocab_size, m)
        In the memory order that the functions take without a copy.

    Raises
    ------
    TypeError
        If `indices` holds no integers.
    ValueError
        If an index is not from 0 to ``vocab_size - 1``, where that can be known without waiting for a device.
    """
    indices = indices if xp is None else xp.asarray(indices)
    namespace, device = ns.common_namespace({"indices": indices})
    if not ns.is_integer(namespace, indices):
        raise TypeError(f"`indices` must hold integers; got dtype {indices.dtype}")
    if not isinstance(vocab_size, int | np.integer) or vocab_size < 1:
        raise ValueError(f"`vocab_size` must be an integer of at least 1; got {vocab_size!r}")
    indices = ns.as_index(namespace, indices)
    if ns.is_on_host(indices) and indices.size and not (indices.min() >= 0 and indices.max() < vocab_size):
        raise ValueError(
            f"`indices` must be from 0 to vocab_size - 1 = {vocab_size - 1}; got {indices.min()} to {indices.max()}"
        )
    reverse = tuple(range(indices.ndim))[::-1]
    # In C order: NumPy gives the result of a comparison the memory order of what it compares.
    in_time = ns.contiguous(namespace, namespace.permute_dims(indices, reverse))
    columns = namespace.expand_dims(in_time, axis=indices.ndim)
    classes = namespace.arange(vocab_size, dtype=indices.dtype, device=device)
    rows = namespace.astype(columns == classes, getattr(namespace, dtype))
    return namespace.permute_dims(rows, tuple(range(rows.ndim))[::-1])
