"""Batches of sequences from texts that are arrays of indices.

m: sequences side by side. T: steps. Indices may have any integer dtype and lie in a memory map; batches hold
int64, which every library can index with and in which nothing wraps around. A batch is small.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from rnnx._core.checks import integer

Pieces = Sequence[tuple[int, int]]
BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded with zeros at the end.

    Attributes
    ----------
    inputs, targets : array of int, shape (m, T)
        Indices of characters; targets[j, t] follows inputs[j, t]. For other models as they take them. NumPy's, or
        of the library and on the device of the model.
    lengths : array of int, shape (m,), or None
        Steps of each example; None: all of them.
    continues : bool
        Whether the sequences go on where those of the batch before ended, so that its final states are the
        initial states of this one.
    """

    inputs: Any
    targets: Any
    lengths: np.ndarray | None
    continues: bool = False

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets of each example without its padding."""
        for j, (inputs, targets) in enumerate(zip(self.inputs, self.targets, strict=True)):
            end = None if self.lengths is None else self.lengths[j]
            yield inputs[:end], targets[:end]


@dataclass(frozen=True)
class Rows:
    """A batch of successive steps of a text: where its rows begin, (m,), and how long they are, (m,)."""

    firsts: np.ndarray
    lengths: np.ndarray
    continues: bool = False


@dataclass(frozen=True)
class LaidOut:
    """A text whose batches can be cut out of two arrays (n,): row by row, and from their end on at their beginning."""

    inputs: np.ndarray
    targets: np.ndarray
    rows: Callable[[int, np.random.Generator | None, int], Iterator[Rows]]  # as `Dataset.batches`


class Dataset(Protocol):
    """What the trainer needs of a dataset."""

    def __len__(self) -> int:
        """How many there are of what the dataset consists of."""

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """One epoch, without its first `start` batches; in an order that `rng` draws, or always the same."""


class Shuffled(ABC, Generic[BatchT]):
    """A dataset whose batches are any of its examples side by side; a subclass has `__len__` and `gather`."""

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    @abstractmethod
    def gather(self, chosen: np.ndarray) -> BatchT:
        """The batch of these examples.

        Parameters
        ----------
        chosen : array of int, shape (m,)
            Their numbers, from 0.
        """

    def n_batches(self, batch_size: int) -> int:
        """Batches of one epoch; the last one may hold fewer examples."""
        return -(-len(self) // integer("batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[BatchT]:
        """All examples once; in random order if there is an `rng`.

        Parameters
        ----------
        batch_size : int
        rng : numpy.random.Generator, optional
        start : int
            Batches to leave out at the beginning; they are not built.
        """
        return map(self.gather, shuffled(len(self), batch_size, rng, start))


class Lines(Shuffled[Batch]):
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
        self.newline = integer("newline", newline, 0)

    def __len__(self) -> int:
        return len(self.sequences)

    def gather(self, chosen: np.ndarray) -> Batch:
        """The batch of these lines."""
        sequences = [self.sequences[i] for i in chosen]
        lengths = np.array([len(s) + 1 for s in sequences])
        inputs, targets = np.zeros((2, len(sequences), lengths.max()), np.int64)
        for j, s in enumerate(sequences):
            inputs[j, 0], inputs[j, 1 : lengths[j]] = self.newline, s
            targets[j, : lengths[j] - 1], targets[j, lengths[j] - 1] = s, self.newline
        return Batch(inputs, targets, lengths)

    def laid_out(self) -> LaidOut:
        """The lines one after another, a newline before each of them and behind the last one."""
        newline = np.array([self.newline], np.min_scalar_type(self.newline))
        text = np.concatenate([part for s in self.sequences for part in (newline, s)] + [newline])
        lengths = np.array([len(s) + 1 for s in self.sequences])
        firsts = np.cumsum(lengths) - lengths

        def rows(batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[Rows]:
            return (Rows(firsts[at], lengths[at]) for at in shuffled(len(self), batch_size, rng, start))

        return LaidOut(text[:-1], text[1:], rows)


class Windows(Shuffled[Batch]):
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
        self.length = integer("length", length)
        self.pieces = _check_pieces(pieces, len(self.indices))
        self._starts, stops = np.array(self.pieces, np.int64).T
        self._last_targets = stops - 1
        counts = -(-(self._last_targets - self._starts) // self.length)
        self._ends = np.cumsum(counts)  # numbers of windows at which a piece has been read
        self._firsts = self._ends - counts

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, chosen: np.ndarray) -> Batch:
        """The batch of these windows."""
        starts, lengths = self._places(chosen)
        steps = np.arange(lengths.max())
        places = np.minimum(starts[:, None] + steps, len(self.indices) - 2)
        inputs, targets = (self.indices[at].astype(np.int64) for at in (places, places + 1))
        if lengths.min() < len(steps):
            padding = steps >= lengths[:, None]
            inputs[padding] = targets[padding] = 0
        return Batch(inputs, targets, lengths)

    def _places(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where these windows begin in the text, and how long they are."""
        piece = np.searchsorted(self._ends, chosen, side="right")
        starts = self._starts[piece] + (chosen - self._firsts[piece]) * self.length
        return starts, np.minimum(self.length, self._last_targets[piece] - starts)

    def laid_out(self) -> LaidOut:
        """The text, from its first piece to its last one."""
        first, last = int(self._starts.min()), int(self._last_targets.max())

        def rows(batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[Rows]:
            for chosen in shuffled(len(self), batch_size, rng, start):
                starts, lengths = self._places(chosen)
                yield Rows(starts - first, lengths)

        return LaidOut(self.indices[first:last], self.indices[first + 1 : last + 1], rows)


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
        self.length = integer("length", length)
        self.pieces = _check_pieces(pieces, len(self.indices))
        starts, stops = np.array(self.pieces, np.int64).T
        self._ends = np.cumsum(stops - 1 - starts)  # step numbers at which a piece has been read
        self._shifts = stops - 1 - self._ends  # of a step's number to its place in the text

    def __len__(self) -> int:
        """Steps: characters of all pieces but the first of each."""
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
        return (
            self._gather(rows.firsts[:, None] + np.arange(rows.lengths[0]), rows.continues)
            for rows in self._rows(batch_size, rng, start)
        )

    def _rows(self, batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[Rows]:
        """By the numbers of their steps."""
        steps = self._steps_of_a_stream(batch_size)
        start = integer("start", start, 0)
        offset = 0 if rng is None else int(rng.integers(len(self)))
        firsts = offset + steps * np.arange(batch_size)
        return (
            Rows(firsts + at, np.full(batch_size, min(self.length, steps - at)), at > 0)
            for at in range(start * self.length, steps, self.length)
        )

    def _gather(self, numbers: np.ndarray, continues: bool) -> Batch:
        numbers = numbers % len(self)
        places = numbers + self._shifts[np.searchsorted(self._ends, numbers, side="right")]
        inputs, targets = (self.indices[at].astype(np.int64) for at in (places, places + 1))
        return Batch(inputs, targets, np.full(len(places), places.shape[1]), continues)

    def laid_out(self) -> LaidOut:
        """The steps of all pieces by their numbers."""
        inputs, targets = (
            np.concatenate([self.indices[start + i : stop - 1 + i] for start, stop in self.pieces]) for i in (0, 1)
        )
        return LaidOut(inputs, targets, self._rows)

    def _steps_of_a_stream(self, batch_size: int) -> int:
        steps = len(self) // integer("batch_size", batch_size)
        if steps == 0:
            raise ValueError(
                f"the text is too short for `batch_size` = {batch_size} streams: it has {len(self)} steps; "
                "a smaller batch size is possible"
            )
        return steps


class Examples(Shuffled[Batch]):
    """Sequences in arrays, with a target each, for `rnnx.models.SequenceClassifier` and `SequenceRegressor`.

    Parameters
    ----------
    inputs : array, shape (n_x, n, T), or (n, T) of integers
        n sequences: numbers, or indices that stand for one-hot columns.
    targets : array
        Integers are classes, of shape (n,) or, for every step, (n, T). Floats are numbers, of shape (n_y, n) or
        (n_y, n, T).
    lengths : sequence of int, shape (n,), optional
        Steps of each example, from 0 to T.

    Raises
    ------
    ValueError
        For shapes that do not fit each other, or lengths out of their range.
    TypeError
        For inputs of two axes, or lengths, that are no integers, and for anything else than numbers.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, lengths: Sequence[int] | np.ndarray | None = None):
        self.inputs, self.targets = np.asarray(inputs), np.asarray(targets)
        self.lengths = None if lengths is None else np.asarray(lengths)
        if self.inputs.ndim not in (2, 3):
            raise ValueError(f"`inputs` must have shape (n_x, n, T), or (n, T) of integers; got {self.inputs.shape}")
        if self.inputs.dtype.kind not in ("iu" if self.inputs.ndim == 2 else "fiub"):
            kind = "indices, integers" if self.inputs.ndim == 2 else "real numbers"
            raise TypeError(
                f"`inputs` of {self.inputs.ndim} axes must hold {kind}; got shape {self.inputs.shape}, "
                f"dtype {self.inputs.dtype}"
            )
        self._size, n_steps = self.inputs.shape[-2:]
        self.axis = _check_targets(self.targets, self._size, n_steps)
        if self.lengths is not None:
            _check_lengths(self.lengths, self._size, n_steps)

    def __len__(self) -> int:
        return self._size

    def gather(self, chosen: np.ndarray) -> Batch:
        """The batch of these examples."""
        inputs = np.take(self.inputs, chosen, axis=-2)
        targets = np.take(self.targets, chosen, axis=self.axis)
        return Batch(inputs, targets, None if self.lengths is None else self.lengths[chosen])


def _check_targets(targets: np.ndarray, n: int, n_steps: int) -> int:
    """The axis of the examples."""
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"`targets` must hold integers, which are classes, or floats; got dtype {targets.dtype}")
    classes = targets.dtype.kind != "f"
    shape = targets.shape if classes else targets.shape[1:]
    if (targets.ndim == 0) or shape not in ((n,), (n, n_steps)):
        what = "classes, of shape (n,) or (n, T)" if classes else "numbers, of shape (n_y, n) or (n_y, n, T)"
        other = "; numbers must be floats" if classes else "; classes must be integers"
        raise ValueError(
            f"`targets` of dtype {targets.dtype} are {what}, n = {n} and T = {n_steps} as of `inputs`; "
            f"got {targets.shape}{other}"
        )
    return 0 if classes else 1


def _check_lengths(lengths: np.ndarray, n: int, n_steps: int) -> None:
    if lengths.shape != (n,):
        raise ValueError(f"`lengths` must have shape (n,) = ({n},); got {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"`lengths` must hold integers; got dtype {lengths.dtype}")
    if n and not 0 <= lengths.min() <= lengths.max() <= n_steps:
        raise ValueError(f"`lengths` must be from 0 to T = {n_steps}; got {lengths.min()} to {lengths.max()}")


def shuffled(n: int, batch_size: int, rng: np.random.Generator | None, start: int) -> Iterator[np.ndarray]:
    """Numbers from 0 to n - 1 in batches, the first `start` of them left out."""
    batch_size, start = integer("batch_size", batch_size), integer("start", start, 0)
    firsts = range(start * batch_size, n, batch_size)
    if rng is None:
        return (np.arange(at, min(at + batch_size, n)) for at in firsts)
    order = rng.permutation(n)
    return (order[at : at + batch_size] for at in firsts)


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
