"""A dataset of n sequences in arrays of any library: n_x features, n_y target values, T steps."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import check_lengths
from rnnx._core.copying import Portable
from rnnx.data.batches import Batch, Shuffled


class Examples(Portable, Shuffled[Batch]):
    """Sequences with targets, for `rnnx.models.SequenceClassifier` and `rnnx.models.SequenceRegressor`.

    Parameters
    ----------
    inputs : array, shape (n_x, n, T), or array of int, shape (n, T)
        Features, or indices of one-hot columns.
    targets : array of int, shape (n,) or (n, T), or array of float, shape (n_y, n) or (n_y, n, T)
        Class indices (integers) or values to predict (floats), per sequence or per step.
    lengths : sequence of int, shape (n,), optional
        Sequence lengths, 0 to T.

    Attributes
    ----------
    indices : bool
        Whether the inputs are indices.

    Raises
    ------
    ValueError
        If shapes do not match, or a length is out of range.
    TypeError
        If indices or lengths are not integers, or other values are not real numbers.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None):
        self.inputs, self.targets = np.asarray(inputs), np.asarray(targets)
        self.indices = self.inputs.ndim == 2
        if self.inputs.ndim not in (2, 3):
            raise ValueError(f"`inputs` must have shape (n_x, n, T), or (n, T) of integers; got {self.inputs.shape}")
        if self.inputs.dtype.kind not in ("iu" if self.indices else "fiub"):
            kind = "indices, integers" if self.indices else "real numbers"
            raise TypeError(
                f"`inputs` of {self.inputs.ndim} axes must hold {kind}; got shape {self.inputs.shape}, "
                f"dtype {self.inputs.dtype}"
            )
        self._size, n_steps = self.inputs.shape[-2:]
        self._axis = _check_targets(self.targets, self._size, n_steps)
        self._xp, self._device = ns.common_namespace({"inputs": self.inputs})
        self.lengths: np.ndarray | None = None
        if lengths is not None:
            self.lengths = check_lengths(self._xp, self._device, lengths, self._size, n_steps)

    def __len__(self) -> int:
        return self._size

    def on_device(self, xp: Any, device: Any) -> "Examples":
        """Copy inputs and targets to a device."""
        there = copy.copy(self)
        there._xp, there._device = xp, device
        there.inputs, there.targets = (
            xp.asarray(np.ascontiguousarray(a), device=device) for a in (self.inputs, self.targets)
        )
        return there

    def gather(self, chosen: np.ndarray) -> Batch:
        """Build a batch from the examples with these indices."""
        there: Any = self._xp.asarray(chosen, device=self._device)
        inputs = self._xp.take(self.inputs, there, axis=self.inputs.ndim - 2)
        targets = self._xp.take(self.targets, there, axis=self._axis)
        return Batch(inputs, targets, None if self.lengths is None else self.lengths[chosen])


def _check_targets(targets: np.ndarray, n: int, n_steps: int) -> int:
    """Return the axis of the examples."""
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"`targets` must hold integers, which are classes, or floats; got dtype {targets.dtype}")
    classes = targets.dtype.kind != "f"
    shape = targets.shape if classes else targets.shape[1:]
    if (targets.ndim == 0) or shape not in ((n,), (n, n_steps)):
        what = "classes, of shape (n,) or (n, T)" if classes else "values, of shape (n_y, n) or (n_y, n, T)"
        other = "; values must be floats" if classes else "; classes must be integers"
        raise ValueError(
            f"`targets` of dtype {targets.dtype} are {what}, with n = {n} and T = {n_steps} as in `inputs`; "
            f"got {targets.shape}{other}"
        )
    return 0 if classes else 1
