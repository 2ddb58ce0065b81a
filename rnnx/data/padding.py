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

    See Also
    --------
    StepMask, rnnx.convert.from_keras

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
    mask = StepMask(~(padded.all(axis=0) if array.ndim == 3 else padded))
    return mask.move(array), mask.lengths


class StepMask:
    """Which steps of sequences are real, and the way there and back to sequences without the others.

    Training and predicting without the steps that are masked out, and then putting the outputs back, is the same as
    holding the states of a model in these steps, whose gradients are exact.

    Parameters
    ----------
    mask : array of bool, shape (m, T)
        True where a step is real.

    Attributes
    ----------
    lengths : array of int64, shape (m,)
        Numbers of real steps.

    Raises
    ------
    ValueError, TypeError
        If the mask is no such array.

    See Also
    --------
    move_padding_to_end, Examples

    Examples
    --------
    >>> from rnnx.data import StepMask
    >>> mask = StepMask([[False, True, False, True]])
    >>> mask.move([[0, 5, 0, 6]]).tolist(), mask.lengths.tolist()
    ([[5, 6, 0, 0]], [2])
    >>> mask.restore(mask.move([[0.0, 5.0, 0.0, 6.0]])).tolist()
    [[0.0, 5.0, 5.0, 6.0]]
    """

    def __init__(self, mask: Any) -> None:
        self.mask = host_array("mask", mask)
        if self.mask.dtype != bool or self.mask.ndim != 2:
            raise ValueError(f"`mask` must be booleans of shape (m, T); got {self.mask.dtype}, shape {self.mask.shape}")
        # The real steps come first, in their order.
        self._order = np.argsort(~self.mask, axis=1, kind="stable")
        self.lengths = self.mask.sum(axis=1)

    def move(self, values: Any) -> np.ndarray:
        """Return inputs, targets or weights (..., m, T) with the real steps first, and zero past the lengths."""
        array = self._fitting(values)
        order = self._order.reshape((1,) * (array.ndim - 2) + self._order.shape)
        moved = np.take_along_axis(array, order, axis=-1)
        return np.where(np.arange(array.shape[-1]) < self.lengths[:, None], moved, np.zeros((), array.dtype))

    def restore(self, values: Any) -> np.ndarray:
        """Return outputs (..., m, T) of moved sequences at their own steps; a masked step has those of the one before.

        Zero before the first real step. The outputs may end with the longest sequence.
        """
        array = self._fitting(values, int(self.lengths.max(initial=0)))
        before = np.cumsum(self.mask, axis=1) - 1  # number of the last real step
        places = np.maximum(before, 0).reshape((1,) * (array.ndim - 2) + before.shape)
        return np.where(before >= 0, np.take_along_axis(array, places, axis=-1), np.zeros((), array.dtype))

    def _fitting(self, values: Any, least: int | None = None) -> np.ndarray:
        array, (m, n_steps) = host_array("values", values), self.mask.shape
        least = n_steps if least is None else least
        if array.ndim < 2 or array.shape[-2] != m or not least <= array.shape[-1] <= n_steps:
            raise ValueError(f"`values` must have shape (..., m, T) = (..., {self.mask.shape}); got {array.shape}")
        return array
