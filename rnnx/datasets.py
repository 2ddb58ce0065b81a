"""Batches of sequences from texts that are arrays of indices.

m: sequences side by side. T: steps. Indices may have any integer dtype and lie in a memory map; batches hold
int64, which every library can index with and in which nothing wraps around. A batch is small.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Pieces = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded with zeros at the end.

    Attributes
    ----------
    inputs, targets : array of int, shape (m, T)
        Indices of characters; targets[j, t] follows inputs[j, t]. For other models as they take them.
    lengths : array of int, shape (m,), or None
        Steps of each example; None: all of them.
    continues : bool
        Whether the sequences go on where those of the batch before ended, so that its final states are the
        initial states of this one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray | None
    continues: bool = False

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets of each example without its padding."""
        for j, (inputs, targets) in enumerate(zip(self.inputs, self.targets, strict=True)):
            end = None if self.lengths is None else self.lengths[j]
            yield inputs[:end], targets[:end]


class Dataset(Protocol):
    """What the trainer needs of a dataset."""

    @property
    def n_steps(self) -> int:
        """Targets that an epoch has, at most."""

    def __len__(self) -> int:
        """How many there are of what the dataset consists of."""

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """One epoch, without its first `start` batches; in an order that `rng` draws, or always the same."""


class Lines:
    """Every line is a sequence of its own: it starts after a newline and ends with one.

    Parameters
    ----------
    sequences : sequence of array of int
        The lines without their newline; they are looked up when a batch needs them.
    newline : int
        Index of the newline.
    """

    def __init__(self, sequences: Sequence[np.ndarray], newline: int) -> None:
        self.sequences = sequences
        self.newline = operator.index(newline)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def n_steps(self) -> int:
        """Characters of all lines, newlines included: each is a target once an epoch."""
        return sum(map(len, self.sequences)) + len(self)

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch; the last one may hold fewer lines."""
        return -(-len(self) // _at_least(1, "batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """All sequences once; in random order if there is an `rng`.

        Parameters
        ----------
        batch_size : int
        rng : numpy.random.Generator, optional
        start : int
            Batches to leave out at the beginning; they are not built.
        """
        return (
            self._pad([self.sequences[i] for i in chosen]) for chosen in shuffled(len(self), batch_size, rng, start)
        )

    def _pad(self, sequences: list[np.ndarray]) -> Batch:
        lengths = np.array([len(s) + 1 for s in sequences])
        inputs, targets = np.zeros((2, len(sequences), lengths.max()), np.int64)
        for j, s in enumerate(sequences):
            inputs[j, 0], inputs[j, 1 : lengths[j]] = self.newline, s
            targets[j, : lengths[j] - 1], targets[j, lengths[j] - 1] = s, self.newline
        return Batch(inputs, targets, lengths)


class Windows:
    """A continuous text, cut into windows of equal length. Every window starts from nothing.

    Parameters
    ----------
    indices : array of int, shape (n,)
        The text; n >= 2.
    length : int
        Steps of a window; the last one of a piece may be shorter.
    pieces : sequence of (start, stop), optional
        The parts of the text to take, each of at least 2 characters; default: all of it. No window reaches
        from one piece into another, and no target lies outside of its input's piece.
    """

    def __init__(self, indices: np.ndarray, length: int, pieces: Pieces | None = None) -> None:
        self.indices = _check_indices(indices)
        self.length = _at_least(1, "length", length)
        self.pieces = _check_pieces(pieces, len(self.indices))
        starts = [np.arange(start, stop - 1, self.length) for start, stop in self.pieces]
        self.starts = np.concatenate(starts)
        last_targets = np.repeat([stop - 1 for _, stop in self.pieces], [len(s) for s in starts])
        self.lengths = np.minimum(self.length, last_targets - self.starts)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_steps(self) -> int:
        """Characters of all pieces but the first of each: they are targets once an epoch."""
        return int(self.lengths.sum())

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch; the last one may hold fewer windows."""
        return -(-len(self) // _at_least(1, "batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """All windows once; in random order if there is an `rng`. Parameters as for `Lines.batches`."""
        return (self._gather(chosen) for chosen in shuffled(len(self), batch_size, rng, start))

    def _gather(self, chosen: np.ndarray) -> Batch:
        lengths = self.lengths[chosen]
        steps = np.arange(lengths.max())
        places = np.minimum(self.starts[chosen][:, None] + steps, len(self.indices) - 2)
        inputs, targets = (self.indices[at].astype(np.int64) for at in (places, places + 1))
        if lengths.min() < len(steps):
            padding = steps >= lengths[:, None]
            inputs[padding] = targets[padding] = 0
        return Batch(inputs, targets, lengths)


class Streams:
    """A continuous text, read by as many streams as a batch has examples: for truncated backpropagation through time.

    The steps of the text (an input and its target, the character after it) are dealt to `batch_size` streams
    of equal length, one after another; every batch holds the next `length` steps of all of them, and
    ``continues`` is True in all batches but the first. The last batch may have fewer steps. What is left over
    when the steps do not divide evenly, at most ``batch_size - 1`` steps, is left out.

    Parameters
    ----------
    indices : array of int, shape (n,)
        The text; n >= 2.
    length : int
        Steps of a batch.
    pieces : sequence of (start, stop), optional
        The parts of the text to take, each of at least 2 characters; default: all of it. No target lies outside
        of its input's piece. The streams run over all pieces as if they were one text: after the end of a piece
        the carried states are those of another place, which the first characters of the next one soon replace.

    Notes
    -----
    A stream of a small text is short, and starts from nothing: losses of different batch sizes are not quite
    comparable. With a batch size of 1 nothing is left out.
    """

    def __init__(self, indices: np.ndarray, length: int, pieces: Pieces | None = None) -> None:
        self.indices = _check_indices(indices)
        self.length = _at_least(1, "length", length)
        self.pieces = _check_pieces(pieces, len(self.indices))
        starts, stops = np.array(self.pieces, np.int64).T
        self._ends = np.cumsum(stops - 1 - starts)  # step numbers at which a piece has been read
        self._shifts = stops - 1 - self._ends  # of a step's number to its place in the text

    def __len__(self) -> int:
        return self.n_steps

    @property
    def n_steps(self) -> int:
        """Characters of all pieces but the first of each; up to ``batch_size - 1`` of them no target in an epoch."""
        return int(self._ends[-1])

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch.

        Raises
        ------
        ValueError
            If the text is too short for so many streams.
        """
        return -(-self._steps_of_a_stream(batch_size) // self.length)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """All steps in order; with an `rng`, from a random one on, and around the end of the text.

        Parameters
        ----------
        batch_size : int
            Number of streams.
        rng : numpy.random.Generator, optional
        start : int
            Batches to leave out at the beginning; they are not built.

        Raises
        ------
        ValueError
            If the text is too short for so many streams.
        """
        steps = self._steps_of_a_stream(batch_size)
        start = _at_least(0, "start", start)
        offset = 0 if rng is None else int(rng.integers(self.n_steps))
        firsts = offset + steps * np.arange(batch_size)
        return (
            self._gather(firsts[:, None] + np.arange(at, min(at + self.length, steps)), continues=at > 0)
            for at in range(start * self.length, steps, self.length)
        )

    def _gather(self, numbers: np.ndarray, continues: bool) -> Batch:
        numbers = numbers % self.n_steps
        places = numbers + self._shifts[np.searchsorted(self._ends, numbers, side="right")]
        inputs, targets = (self.indices[at].astype(np.int64) for at in (places, places + 1))
        return Batch(inputs, targets, np.full(len(places), places.shape[1]), continues)

    def _steps_of_a_stream(self, batch_size: int) -> int:
        steps = self.n_steps // _at_least(1, "batch_size", batch_size)
        if steps == 0:
            raise ValueError(
                f"the text is too short for `batch_size` = {batch_size} streams: it has {self.n_steps} steps; "
                "a smaller batch size is possible"
            )
        return steps


class Examples:
    """Sequences in arrays, with a target each, for `rnnx.models.SequenceClassifier` and `SequenceRegressor`.

    Parameters
    ----------
    inputs : array, shape (n_x, n, T), or (n, T) of integers
        n sequences: numbers, or indices that stand for one-hot columns.
    targets : array
        Classes, integers of shape (n,) or, for every step, (n, T); or numbers of shape (n_y, n) or (n_y, n, T).
    lengths : sequence of int, shape (n,), optional
        Steps of each example.

    Raises
    ------
    ValueError
        If inputs, targets and lengths are not of the same number of examples.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None):
        self.inputs, self.targets = np.asarray(inputs), np.asarray(targets)
        self.lengths = None if lengths is None else np.asarray(lengths)
        if self.inputs.ndim not in (2, 3):
            raise ValueError(f"`inputs` must have shape (n_x, n, T), or (n, T) of integers; got {self.inputs.shape}")
        self._size = self.inputs.shape[-2]
        self._axis = 0 if self.targets.dtype.kind in "iub" else 1  # of the targets' examples
        if self.targets.ndim <= self._axis or self.targets.shape[self._axis] != self._size:
            raise ValueError(f"`targets` must be of {self._size} examples, as `inputs`; got {self.targets.shape}")
        if self.lengths is not None and self.lengths.shape != (self._size,):
            raise ValueError(f"`lengths` must have shape (n,) = ({self._size},); got {self.lengths.shape}")

    def __len__(self) -> int:
        return self._size

    @property
    def n_steps(self) -> int:
        """Steps of all examples."""
        return self._size * self.inputs.shape[-1] if self.lengths is None else int(self.lengths.sum())

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch; the last one may hold fewer examples."""
        return -(-len(self) // _at_least(1, "batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """All examples once; in random order if there is an `rng`. Parameters as for `Lines.batches`."""
        for chosen in shuffled(len(self), batch_size, rng, start):
            inputs = np.take(self.inputs, chosen, axis=-2)
            targets = np.take(self.targets, chosen, axis=self._axis)
            yield Batch(inputs, targets, None if self.lengths is None else self.lengths[chosen])


def shuffled(n: int, batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[np.ndarray]:
    """Numbers from 0 to n - 1 in batches, the first `start` of them left out."""
    batch_size, start = _at_least(1, "batch_size", batch_size), _at_least(0, "start", start)
    order = np.arange(n) if rng is None else rng.permutation(n)
    return (order[at : at + batch_size] for at in range(start * batch_size, n, batch_size))


def _at_least(smallest: int, name: str, value: Any) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < smallest:
        raise ValueError(f"`{name}` must be an integer of at least {smallest}; got {value!r}")
    return int(value)


def _check_indices(indices: Any) -> np.ndarray:
    array = np.asarray(indices)  # of a memory map, a view
    if array.ndim != 1 or len(array) < 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`indices` must be integers of shape (n,) with n >= 2; got shape {array.shape}, dtype {array.dtype}"
        )
    return array


def _check_pieces(pieces: Pieces | None, n: int) -> list[tuple[int, int]]:
    checked = [(0, n)] if pieces is None else [(int(start), int(stop)) for start, stop in pieces]
    for start, stop in checked:
        if not 0 <= start <= stop - 2 <= n - 2:
            raise ValueError(f"a piece must be (start, stop) of at least 2 of the {n} characters; got {(start, stop)}")
    if not checked:
        raise ValueError("`pieces` must hold at least one piece")
    return checked
