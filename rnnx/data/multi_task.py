"""A dataset of n sequences with several targets each, for models with several heads."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.data.batches import Batch, Shuffled
from rnnx.data.examples import Examples


class MultiTaskExamples(Shuffled[Batch]):
    """Sequences with several targets, for `rnnx.models.MultiTaskModel`.

    Parameters
    ----------
    inputs, lengths, extra
        As for `Examples`.
    targets : dict of str to array
        The targets of each head by its name, as for `Examples`.
    weights : array or dict of str to array, optional
        As for `Examples`: for all targets, or for those of some heads, so that a head can ignore examples that have no
        target of its own.

    Raises
    ------
    ValueError, TypeError
        As for `Examples`; the message names the head.

    See Also
    --------
    Examples, rnnx.models.MultiTaskModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import MultiTaskExamples
    >>> data = MultiTaskExamples(np.ones((2, 4, 5)), {"load": np.zeros((1, 4, 5)), "label": [0, 1, 1, 0]})
    >>> {name: a.shape for name, a in next(data.batches(3)).targets.items()}
    {'load': (1, 3, 5), 'label': (3,)}
    """

    def __init__(
        self, inputs: Any, targets: Mapping[str, Any], *, lengths: Any = None, extra: Any = None, weights: Any = None
    ) -> None:
        if not isinstance(targets, Mapping) or not targets:
            raise TypeError(f"`targets` must be a dict of names of heads to targets; got {shown(targets)}")
        of_each = weights if isinstance(weights, Mapping) else dict.fromkeys(targets, weights)
        if unknown := [name for name in of_each if name not in targets]:
            raise ValueError(f"`weights` has no target {unknown[0]!r}{nearest(str(unknown[0]), map(str, targets))}")
        self._parts: dict[str, Examples] = {}
        own = inputs
        for name, values in targets.items():
            try:
                part = Examples(own, values, lengths=lengths, extra=extra, weights=of_each.get(name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"of the head {name!r}: {error}") from None
            self._parts[name] = part
            if own is inputs:  # the first one has the inputs, the others only their shape
                own, extra = np.broadcast_to(np.zeros(1), (1, *part.inputs.shape[-2:])), None

    @property
    def _first(self) -> Examples:
        return next(iter(self._parts.values()))

    @property
    def inputs(self) -> Any:
        """The inputs."""
        return self._first.inputs

    @property
    def targets(self) -> dict[str, Any]:
        """The targets by head."""
        return {name: part.targets for name, part in self._parts.items()}

    @property
    def lengths(self) -> Any:
        """The lengths, or None."""
        return self._first.lengths

    @property
    def extra(self) -> Any:
        """The inputs besides `inputs`, or None."""
        return self._first.extra

    def __len__(self) -> int:
        return len(self._first)

    def gather(self, chosen: np.ndarray) -> Batch:
        """Build a batch from the examples with these indices."""
        return _merged({name: part.gather(chosen) for name, part in self._parts.items()})

    def extremes(self) -> Batch:
        """Return all examples as one batch, without a copy, for checks."""
        return _merged({name: part.extremes() for name, part in self._parts.items()})

    def take(self, chosen: Any) -> "MultiTaskExamples":
        """Return the examples with these indices as a dataset."""
        return self._with({name: part.take(chosen) for name, part in self._parts.items()})

    def on_device(self, xp: Any, device: Any) -> "MultiTaskExamples":
        """Copy inputs and targets to a device."""
        return self._with({name: part.on_device(xp, device) for name, part in self._parts.items()})

    def _with(self, parts: dict[str, Examples]) -> "MultiTaskExamples":
        there = copy.copy(self)
        there._parts = parts
        return there


def _merged(batches: dict[str, Batch]) -> Batch:
    """Return one batch of those of all heads."""
    first = next(iter(batches.values()))
    weights = {name: batch.weights for name, batch in batches.items() if batch.weights is not None}
    targets = {name: batch.targets for name, batch in batches.items()}
    return Batch(first.inputs, targets, first.lengths, extra=first.extra, weights=weights or None)
