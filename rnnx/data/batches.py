"""Batches of sequences, and the order in which a dataset hands them out.

Dimensions: m sequences of a batch, T steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from rnnx._core.checks import integer

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Batch:
    """Sequences of a batch, padded with zeros at the end.

    Attributes
    ----------
    inputs, targets : array of int, shape (m, T)
        Indices of characters; targets[j, t] is the character after inputs[j, t]. Models of other sequences define
        their own inputs and targets. The arrays are NumPy's, or in the model's library and on its device.
    lengths : array of int, shape (m,), or None
        Steps of each example; None means that every example has T steps.
    continues : bool
        Whether the sequences continue those of the previous batch, whose final states are then the initial states of
        this one.
    """

    inputs: Any
    targets: Any
    lengths: np.ndarray | None
    continues: bool = False

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the inputs and targets of each example without padding."""
        for j, (inputs, targets) in enumerate(zip(self.inputs, self.targets, strict=True)):
            end = None if self.lengths is None else self.lengths[j]
            yield inputs[:end], targets[:end]


class Dataset(Protocol):
    """The interface that the trainer needs."""

    def __len__(self) -> int:
        """Return the number of examples, or of steps of a continuous text."""

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """Iterate over one epoch without its first `start` batches, in a fixed order or in one drawn from `rng`."""


class Shuffled(ABC, Generic[BatchT]):
    """Base of datasets whose examples are independent; a subclass defines `__len__` and `gather`."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def gather(self, chosen: np.ndarray) -> BatchT:
        """Build the batch of some examples.

        Parameters
        ----------
        chosen : array of int, shape (m,)
            Numbers of the examples, from 0.
        """

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch; the last one may be smaller."""
        return -(-len(self) // integer("batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[BatchT]:
        """Iterate over all examples once.

        Parameters
        ----------
        batch_size : int
        rng : numpy.random.Generator, optional
            Shuffles the examples; by default they come in their own order.
        start : int
            Batches to skip. They are not built.
        """
        return map(self.gather, batched(len(self), batch_size, rng, start))


def batched(n: int, batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[np.ndarray]:
    """Split the numbers from 0 to n - 1, shuffled if there is an `rng`, into batches; skip the first `start`."""
    batch_size, start = integer("batch_size", batch_size), integer("start", start, 0)
    firsts = range(start * batch_size, n, batch_size)
    if rng is None:
        return (np.arange(at, min(at + batch_size, n)) for at in firsts)
    order = rng.permutation(n)
    return (order[at : at + batch_size] for at in firsts)


def pad(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack sequences of integers as rows, padded with zeros at the end.

    Returns
    -------
    padded : array of int64, shape (m, T)
    lengths : array of int64, shape (m,)
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    padded = np.zeros((len(sequences), lengths.max(initial=0)), np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded, lengths


def pad_shifted(sequences: Sequence[np.ndarray], token: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack sequences for next-token prediction: inputs begin with `token`, targets end with it.

    Returns
    -------
    inputs, targets : array of int64, shape (m, T)
    lengths : array of int64, shape (m,)
        With the token.
    """
    lengths = np.array([len(sequence) + 1 for sequence in sequences], np.int64)
    inputs, targets = np.zeros((2, len(sequences), lengths.max(initial=0)), np.int64)
    for before, after, sequence in zip(inputs, targets, sequences, strict=True):
        n = len(sequence)
        before[0] = after[n] = token
        before[1 : n + 1] = after[:n] = sequence
    return inputs, targets, lengths
