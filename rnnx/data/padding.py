"""Padding before or between the steps of a sequence, moved to its end."""

from typing import Any

import numpy as np

from rnnx._core.checks import real
from rnnx._core.inputs import host_array


def move_padding_to_end(inputs: Any, value: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Move padded steps to the end of each sequence, where `lengths` expect them.

    A model then reads the same steps as a Keras model with a Masking layer, which skips padded steps wherever they are:
    before a sequence (left padding, the default of Keras's pad_sequences) or in gaps.

    Parameters
    ----------
    inputs : array, shape (n_x, m, T), or array of int, shape (m, T)
        Sequences in which a step is padding if all its features, or its index, equal `value`.
    value : float
        The value of padding, for instance Keras's mask_value.

    Returns
    -------
    moved : array, shape of `inputs`
        Zero past the lengths; the other steps keep their order.
    lengths : array of int64, shape (m,)

    Raises
    ------
    ValueError, TypeError
        If `inputs` are not such an array of NumPy, or `value` is not a number.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import move_padding_to_end
    >>> moved, lengths = move_padding_to_end(np.array([[0, 0, 5, 6], [7, 0, 8, 0]]))
    >>> moved.tolist(), lengths.tolist()
    ([[5, 6, 0, 0], [7, 8, 0, 0]], [2, 2])
    """
    array = host_array("inputs", inputs)
    if array.ndim not in (2, 3):
        raise ValueError(f"`inputs` must have shape (n_x, m, T), or (m, T) for indices; got {array.shape}")
    padded = array == real("value", value)
    padded = padded.all(axis=0) if array.ndim == 3 else padded
    order = np.argsort(padded, axis=1, kind="stable")  # the steps that are not padding come first, in their order
    lengths = (~padded).sum(axis=1)
    moved = np.take_along_axis(array, order if array.ndim == 2 else order[None], axis=-1)
    return np.where(np.arange(array.shape[-1]) < lengths[:, None], moved, np.zeros((), array.dtype)), lengths
