"""One-hot columns."""

from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_library, check_size, integer
from rnnx._core.layout import to_time_major


def one_hot(indices: Array, vocab_size: int, dtype: str = "float32", xp: Any = None) -> Array:
    """Build one-hot columns from indices.

    Parameters
    ----------
    indices : array of int, shape (m, T) or (m,)
        With `xp`, also a list.
    vocab_size : int
    dtype : {"float32", "float64"}
        With CuPy, also "float16" and "bfloat16".
    xp : module, optional
        Array namespace of the result, for instance ``cupy``; default: the namespace of `indices`.

    Returns
    -------
    x : array, shape (vocab_size, m, T) or (vocab_size, m)
        In Fortran order, which the recurrent functions read without a copy.

    Raises
    ------
    ValueError, TypeError
        If `vocab_size` is not a positive integer, `indices` are not integers, or NumPy indices are out of range; for
        an unknown dtype, or a result of more than 2**32 elements.

    See Also
    --------
    lstm_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.one_hot(np.array([1, 0]), 3)
    array([[0., 1.],
           [1., 0.],
           [0., 0.]], dtype=float32)
    """
    vocab_size = integer("vocab_size", vocab_size)
    if xp is None or not isinstance(indices, list | tuple):
        ns.common_namespace({"indices": indices})
    indices = indices if xp is None else _converted(xp, indices)
    xp, device = ns.common_namespace({"indices": indices})
    dtype = ns.dtype_named(xp, "dtype", dtype)
    if not ns.is_integer(xp, indices):
        raise TypeError(f"`indices` must hold integers; got dtype {indices.dtype}")
    check_size((vocab_size, *indices.shape), vocab_size=vocab_size)
    indices = ns.as_index(xp, indices)
    check_indices("indices", indices, "vocab_size", vocab_size)
    time_major = to_time_major(xp, indices)
    if ns.is_on_host(indices):
        columns = np.zeros((indices.size, vocab_size), dtype)
        columns[np.arange(indices.size), time_major.reshape(-1)] = 1
        return ns.reversed_axes(xp, columns.reshape(*time_major.shape, vocab_size))
    classes = xp.arange(vocab_size, dtype=indices.dtype, device=device)
    return ns.reversed_axes(xp, xp.astype(xp.expand_dims(time_major, axis=indices.ndim) == classes, dtype))


def _converted(xp: Any, indices: Any) -> Array:
    """Convert indices to the library `xp`."""
    check_library("xp", xp)
    try:
        return xp.asarray(indices)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`indices` must be an array of int that `xp` can convert; got {error}") from None
