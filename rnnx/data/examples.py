"""A dataset of n sequences in arrays of any library: n_x features, n_y target values, T steps."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import check_indices, check_lengths, integer_vector
from rnnx._core.copying import Portable
from rnnx._core.inputs import bools_to_integers, check_weights, host_array, is_index_input
from rnnx.data.batches import Batch, Shuffled


class Examples(Portable, Shuffled[Batch]):
    """Sequences with targets, for `rnnx.models.SequenceClassifier` and `rnnx.models.SequenceRegressor`.

    Parameters
    ----------
    inputs : array, shape (n_x, n, T), or array of int, shape (n, T)
        Features, or indices of one-hot columns.
    targets : array of int or bool, shape (n,) or (n, T), or array of float, shape (n_y, n) or (n_y, n, T)
        Class indices (integers; False and True are 0 and 1) or values to predict (floats), per sequence or per step.
    lengths : sequence of int, shape (n,), optional
        0 to T. A batch is cut to its longest example.
    extra : dict of str to array, shape (n, T) or (n_a, n, T), optional
        What the model's cell has besides its inputs, such as times: a number per step, or one for each of n_a units.
    weights : array, shape (n,) or (n, T), optional
        Weights of the examples, or of their steps, in the loss; at least 0, or True and False. Targets of weight 0 are
        ignored, even if they are NaN or no classes. For weights of classes see `class_weights`.

    Attributes
    ----------
    indices : bool
        Whether the inputs are indices.

    Raises
    ------
    ValueError, TypeError
        If shapes do not match, a length is out of range, or a dtype is wrong.

    See Also
    --------
    Items, MultiTaskExamples, as_sequences, rnnx.models.SequenceClassifier

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> x = np.random.default_rng(0).standard_normal((3, 10, 7))  # (n_x, n, T)
    >>> data = Examples(x, np.arange(10) % 2, lengths=[7, 7, 4, 4, 4, 4, 4, 4, 4, 4])
    >>> [batch.inputs.shape for batch in data.batches(batch_size=2)][:2]  # cut to the longest
    [(3, 2, 7), (3, 2, 4)]
    >>> data.take([0, 5, 7]).targets
    array([0, 1, 1])
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        lengths: Sequence[int] | np.ndarray | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        weights: Any = None,
    ) -> None:
        if isinstance(targets, Mapping):
            raise TypeError("`targets` must be an array; for a dict of several, use `rnnx.data.MultiTaskExamples`")
        self.inputs = host_array("inputs", inputs)
        self.targets = bools_to_integers(np, host_array("targets", targets))
        self.indices = is_index_input(np, self.inputs)
        if self.inputs.ndim not in (2, 3):
            raise ValueError(f"`inputs` must have shape (n_x, n, T), or (n, T) for indices; got {self.inputs.shape}")
        if self.inputs.ndim == 2 and not self.indices:
            hint = "; for one feature per step, pass inputs[None]"
            raise TypeError(f"`inputs` of shape (n, T) must hold indices; got dtype {self.inputs.dtype}{hint}")
        self._size, n_steps = self.inputs.shape[-2:]
        self._axis = _check_targets(self.targets, self.inputs.shape)
        self._xp, self._device = ns.common_namespace({"inputs": self.inputs})
        self.lengths: np.ndarray | None = None
        if lengths is not None:
            self.lengths = check_lengths(self._xp, self._device, lengths, self._size, n_steps)
        self.extra = None if extra is None else _checked_extra(extra, (self._size, n_steps))
        self.weights: np.ndarray | None = None
        if weights is not None:
            by_step = n_steps if self.targets.ndim > self._axis + 1 else None
            self.weights = check_weights(host_array("weights", weights), self._size, by_step, "n") * 1.0
            self.targets = _without_ignored(self.targets, self.weights == 0)

    def __len__(self) -> int:
        return self._size

    def on_device(self, xp: Any, device: Any) -> "Examples":
        """Copy inputs and targets to a device."""
        there = copy.copy(self)
        there._xp, there._device = xp, device
        there.inputs = xp.asarray(np.ascontiguousarray(self.inputs), device=device)
        there.targets = xp.asarray(np.ascontiguousarray(self.targets), device=device)
        if self.extra:
            there.extra = {k: xp.asarray(np.ascontiguousarray(a), device=device) for k, a in self.extra.items()}
        return there

    def gather(self, chosen: np.ndarray) -> Batch:
        """Build a batch from the examples with these indices."""
        there: Any = self._xp.asarray(chosen, device=self._device)
        inputs = ns.take(self._xp, self.inputs, there, axis=self.inputs.ndim - 2)
        targets = ns.take(self._xp, self.targets, there, axis=self._axis)
        extra = self.extra
        if extra is not None:
            extra = {name: ns.take(self._xp, a, there, axis=a.ndim - 2) for name, a in extra.items()}
        weights = None if self.weights is None else self.weights[chosen]
        if self.lengths is None:
            return Batch(inputs, targets, None, extra=extra, weights=weights)
        lengths = self.lengths[chosen]
        stop = max(int(lengths.max()), 1)
        if targets.ndim > self._axis + 1:
            targets = targets[..., :stop]
        if extra is not None:
            extra = {name: a[..., :stop] for name, a in extra.items()}
        if weights is not None and weights.ndim == 2:
            weights = weights[:, :stop]
        return Batch(inputs[..., :stop], targets, lengths, extra=extra, weights=weights)

    def take(self, chosen: Any) -> "Examples":
        """Return the examples with these indices, such as those of `split_by_group`, as a dataset."""
        indices = integer_vector(np, "cpu", "chosen", chosen)
        check_indices("chosen", indices, "n", len(self))
        there = copy.copy(self)
        picks: Any = self._xp.asarray(indices, device=self._device)
        there.inputs = ns.take(self._xp, self.inputs, picks, axis=self.inputs.ndim - 2)
        there.targets = ns.take(self._xp, self.targets, picks, axis=self._axis)
        there.lengths = None if self.lengths is None else self.lengths[indices]
        there.weights = None if self.weights is None else self.weights[indices]
        if self.extra is not None:
            there.extra = {name: ns.take(self._xp, a, picks, axis=a.ndim - 2) for name, a in self.extra.items()}
        there._size = len(indices)
        return there

    def extremes(self) -> Batch:
        """Return all examples as one batch, without a copy, for checks."""
        return Batch(self.inputs, self.targets, self.lengths, extra=self.extra, weights=self.weights)


def _without_ignored(targets: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return targets with zeros where they are ignored, (n,) or (n, T)."""
    if not ignored.any():
        return targets
    n_axes = targets.ndim - (targets.dtype.kind == "f")  # of examples and steps
    return np.where(ignored if ignored.ndim == n_axes else ignored[:, None], np.zeros((), targets.dtype), targets)


def _checked_extra(extra: Any, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    if not isinstance(extra, Mapping):
        raise TypeError(f"`extra` must be a dict of arrays; got {type(extra).__name__}")
    arrays = {name: host_array(f"extra[{name!r}]", values) for name, values in extra.items()}
    for name, array in arrays.items():
        if array.ndim not in (2, 3) or array.shape[-2:] != shape:
            expected = f"(n, T) = {shape} or (n_a, n, T), with n and T as in `inputs`"
            raise ValueError(f"`extra[{name!r}]` must have shape {expected}; got {array.shape}")
    return arrays


def _check_targets(targets: np.ndarray, inputs: tuple[int, ...]) -> int:
    """Return the axis of the examples."""
    n, n_steps = inputs[-2:]
    axis, kind, shapes = 0, "class indices", "(n,) or (n, T)"
    if targets.dtype.kind == "f":
        axis, kind, shapes = 1, "floats", "(n_y, n) or (n_y, n, T)"
    if targets.ndim > axis and targets.shape[axis:] in ((n,), (n, n_steps)):
        return axis
    expected = f"`targets` must have shape {shapes} for {kind}, with n = {n} and T = {n_steps} as in `inputs`"
    hint = ""
    if len(inputs) == 3 and inputs[0] in targets.shape[:2] and n not in targets.shape:
        hint = f"; `inputs` of shape {inputs} look like batch-first, (n, T, n_x): pass inputs.transpose(2, 0, 1)"
    elif axis == 0 and targets.ndim > 1 and n in targets.shape:
        hint = "; floats for regression, argmax for one-hot classes"
    elif axis == 1 and targets.shape in ((n,), (n, n_steps)):
        hint = "; pass targets[None] for regression, targets.astype(int) for class indices"
    elif axis == 1 and targets.shape[:1] == (n,):
        hint = "; for (n, n_y), pass targets.T"
    raise ValueError(f"{expected}; got {targets.shape}, dtype {targets.dtype}{hint}")
