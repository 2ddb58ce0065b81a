"""Datasets on a device: their arrays are brought there once, and a step says only which parts it wants.

Dimensions: n steps of a text, m examples, T steps of a batch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data.batches import Batch, Examples, Lines, Rows, Shuffled, Streams, Windows


def placed(dataset: Any, like: Mapping[str, Array]) -> Any:
    """The dataset where these arrays are: itself for NumPy's, and if it is of a kind that is not known here."""
    if all(map(ns.is_on_host, like.values())):
        return dataset
    xp, device = ns.common_namespace(like)
    if type(dataset) is Examples:  # a subclass may build its batches otherwise
        return PlacedExamples(dataset, xp, device)
    return PlacedText(dataset, xp, device) if type(dataset) in (Lines, Windows, Streams) else dataset


class PlacedText:
    """A text in batches: those of the dataset, but in the text's own dtype, and without lengths if all are equal."""

    def __init__(self, dataset: Lines | Windows | Streams, xp: Any, device: Any) -> None:
        text = dataset.laid_out()
        self._dataset, self._rows, self._xp, self._device = dataset, text.rows, xp, device
        self._inputs, self._targets = (self._there(_common(a)) for a in (text.inputs, text.targets))

    def __len__(self) -> int:
        return len(self._dataset)

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""
        return self._dataset.n_batches(batch_size)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """One epoch, without its first `start` batches."""
        return map(self._gather, self._rows(batch_size, rng, start))

    def _there(self, values: np.ndarray) -> Array:
        return self._xp.asarray(values, device=self._device)

    def _gather(self, rows: Rows) -> Batch:
        xp, (m, n_steps) = self._xp, (len(rows.firsts), int(rows.lengths.max()))
        steps = xp.expand_dims(xp.arange(n_steps, device=self._device), axis=0)
        places = xp.expand_dims(self._there(rows.firsts), axis=1) + steps
        places = xp.reshape(places % self._inputs.shape[0], (-1,))  # streams go on at the beginning
        inputs, targets = (xp.reshape(xp.take(a, places, axis=0), (m, n_steps)) for a in (self._inputs, self._targets))
        if rows.lengths.min() == n_steps:
            return Batch(inputs, targets, None, rows.continues)
        valid = steps < xp.expand_dims(self._there(rows.lengths), axis=1)
        inputs, targets = (xp.where(valid, a, xp.zeros_like(a)) for a in (inputs, targets))
        return Batch(inputs, targets, rows.lengths, rows.continues)


def _common(indices: np.ndarray) -> np.ndarray:
    """In a dtype that all libraries have functions for, small if it can be."""
    smallest = next(t for t in (np.uint8, np.int32, np.int64) if np.can_cast(indices.dtype, t) or t is np.int64)
    return np.ascontiguousarray(indices, smallest)


class PlacedExamples(Shuffled[Batch]):
    """Sequences in arrays."""

    def __init__(self, examples: Examples, xp: Any, device: Any) -> None:
        self._examples, self._xp, self._device = examples, xp, device
        self._inputs, self._targets = (
            xp.asarray(np.ascontiguousarray(a), device=device) for a in (examples.inputs, examples.targets)
        )

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, chosen: np.ndarray) -> Batch:
        """The batch of these examples."""
        xp, lengths = self._xp, self._examples.lengths
        there = xp.asarray(chosen, device=self._device)
        inputs = xp.take(self._inputs, there, axis=self._inputs.ndim - 2)
        targets = xp.take(self._targets, there, axis=self._examples.axis)
        return Batch(inputs, targets, None if lengths is None else lengths[chosen])
