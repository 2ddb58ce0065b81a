"""One-hot columns for models that read one index at a time."""

from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.heads import one_hot

_LARGE = 1000  # taking columns of an identity matrix is faster, but the matrix has vocab_size^2 elements


class Columns:
    """One-hot columns in the library, device and dtype of an array.

    Parameters
    ----------
    vocab_size : int
    like : array
    """

    def __init__(self, vocab_size: int, like: Array) -> None:
        self._xp, self._device = ns.common_namespace({"like": like})
        self._vocab_size, self._dtype = vocab_size, "float64" if like.dtype == self._xp.float64 else "float32"
        small = vocab_size <= _LARGE
        self._identity = self._xp.eye(vocab_size, dtype=like.dtype, device=self._device) if small else None

    def __call__(self, indices: np.ndarray) -> Array:
        """Return the columns (vocab_size, m) of indices (m,)."""
        places: Any = self._xp.asarray(indices, device=self._device)
        if self._identity is None:
            return one_hot(places, self._vocab_size, self._dtype)
        return self._xp.take(self._identity, places, axis=1)
