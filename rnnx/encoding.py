"""Indices as columns with a single 1."""

from typing import Any

import numpy as np

from rnnx import _namespace as ns
from rnnx._namespace import Array


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
