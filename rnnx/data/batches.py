"""Batches of m sequences of T steps, and the order in which a dataset yields them."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import check_generator, integer
from rnnx.data.order import shuffled

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Batch:
    """A batch of sequences, zero-padded at the end.

    Attributes
    ----------
    inputs, targets : array of int, shape (m, T)
        Character indices; targets[j, t] is the character after inputs[j, t]. Models of other sequences define their own
        inputs and targets. NumPy arrays, or arrays of the model's library on its device.
    lengths : array of int, shape (m,), or None
        Sequence lengths; None if every example has T steps.
    continues : bool
        Whether the sequences continue those of the previous batch, so that its final states are the initial states.
    extra : dict of str to array, shape (m, T) or (n_a, m, T), or None
        What the model's cell has besides `inputs`.
    weights : array, shape (m,) or (m, T), or None
        Weights of the examples, or of their steps, in the loss.
    n_terms : float or dict of str to float, or None
        Of a part of a larger batch: the number of terms, or the sum of their weights, that the loss of the whole batch
        averages, or these by head. The losses of all parts add up to that loss.

    See Also
    --------
    Examples, Lines, rnnx.models.Model

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Batch
    >>> batch = Batch(np.array([[3, 1, 2], [5, 0, 0]]), np.array([[1, 2, 0], [0, 0, 0]]), lengths=np.array([3, 1]))
    >>> [inputs.tolist() for inputs, targets in batch.rows()]  # without the padding
    [[3, 1, 2], [5]]
    """

    inputs: Any
    targets: Any
    lengths: np.ndarray | None
    continues: bool = False
    extra: Mapping[str, Any] | None = None
    weights: Any = None
    n_terms: Any = None

    @property
    def size(self) -> int:
        """The number of examples."""
        return int(self.inputs.shape[-2])

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the unpadded inputs and targets of each example."""
        for j, (inputs, targets) in enumerate(zip(self.inputs, self.targets, strict=True)):
            end = None if self.lengths is None else self.lengths[j]
            yield inputs[:end], targets[:end]


class Gather(NamedTuple):
    """How a dataset on a device gathers the inputs and targets of a batch, (m, T)."""

    build: Callable[[Any], tuple[Any, Any]]  # from `rows` as an array of the device
    rows: np.ndarray  # of int64: what differs between batches of one kind
    kind: Hashable  # what else `build` depends on, besides its dataset
    dataset: Any
    n_steps: int


class LateBatch(Batch):
    """A batch that is gathered on a device when its inputs or targets are needed."""

    gather: Gather

    def __init__(self, gather: Gather, to_device: Callable[[np.ndarray], Any], lengths: np.ndarray, continues: bool):
        values = {"gather": gather, "to_device": to_device, "lengths": lengths, "continues": continues, "extra": None}
        vars(self).update(values, weights=None, n_terms=None)

    def __getattr__(self, name: str) -> Any:
        if name not in ("inputs", "targets"):
            raise AttributeError(name)
        own = vars(self)
        own["inputs"], own["targets"] = self.gather.build(own["to_device"](self.gather.rows))
        return own[name]


class Dataset(Protocol):
    """The dataset interface that the trainer needs.

    See Also
    --------
    Examples, Lines, Windows, Streams, rnnx.training.Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Batch
    >>> from rnnx.models import CharModel
    >>> from rnnx.optim import Adam
    >>> from rnnx.training import Trainer
    >>> class Counting:  # batches that are made when they are needed
    ...     def __len__(self):
    ...         return 100
    ...     def n_batches(self, batch_size):
    ...         return 4
    ...     def batches(self, batch_size, rng=None, start=0):
    ...         for _ in range(start, 4):
    ...             numbers = np.tile(np.arange(8) % 5, (batch_size, 1))
    ...             yield Batch(numbers[:, :-1], numbers[:, 1:], None)
    >>> trainer = Trainer(CharModel(5, hidden_size=8, rng=0), Adam(0.05))
    >>> trainer.fit(Counting(), epochs=10, batch_size=2).loss < 0.1
    True
    """

    def __len__(self) -> int:
        """Return the number of examples, or of steps of a continuous text."""

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch."""

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """Iterate over one epoch in order, or shuffled by `rng`, skipping the first `start` batches."""


class Shuffled(Sized, Generic[BatchT]):
    """Base of datasets of independent examples; subclasses define `__len__` and `gather`."""

    @abstractmethod
    def gather(self, chosen: np.ndarray) -> BatchT:
        """Build a batch from the examples with these indices, shape (m,)."""

    def n_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch; the last one may be smaller."""
        return -(-len(self) // integer("batch_size", batch_size))

    def batches(self, batch_size: int, rng: np.random.Generator | None = None, start: int = 0) -> Iterator[BatchT]:
        """Iterate over all examples once, shuffled if `rng` is given, without building the first `start` batches."""
        batch_size, start = integer("batch_size", batch_size), integer("start", start, 0)
        if rng is not None:
            check_generator("rng", rng)
        order: Any = range(len(self)) if rng is None else shuffled(len(self), rng)
        firsts = range(start * batch_size, len(self), batch_size)
        return (self.gather(np.asarray(order[at : at + batch_size])) for at in firsts)


def check_rows(name: str, sequences: Any) -> None:
    """Raise TypeError unless this is a sequence, such as a list, of the rows of a dataset."""
    is_list = isinstance(sequences, Sequence | np.ndarray) and getattr(sequences, "ndim", 1) > 0
    if not is_list or isinstance(sequences, np.ma.MaskedArray | str | bytes):
        raise TypeError(f"`{name}` must be a list of arrays of int, shape (T,); got {type(sequences).__name__}")


def index_row(name: str, row: Any, i: int) -> np.ndarray:
    """Return row i of a list of sequences of indices as an array, shape (T,)."""
    try:
        array = np.asarray(row)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be 1-D arrays of int; {name}[{i}] has rows of different lengths") from None
    if array.shape == (0,):
        array = np.zeros(0, np.int64)  # NumPy makes floats of an empty list
    if isinstance(row, np.ma.MaskedArray):
        raise ValueError(f"`{name}` must be 1-D arrays of int; {name}[{i}] is a masked array")
    if array.ndim != 1 or not ns.is_integer(np, array):
        got = f"{name}[{i}] has shape {array.shape}, dtype {array.dtype}"
        raise ValueError(f"`{name}` must be 1-D arrays of int; {got}")
    return array


def pad(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack integer sequences as rows, zero-padded at the end.

    Returns
    -------
    padded : array of int64, shape (m, T)
    lengths : array of int64, shape (m,)

    Raises
    ------
    ValueError, TypeError
        If `sequences` is not a list of 1-D arrays or lists of int.

    See Also
    --------
    Examples, as_sequences

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import pad
    >>> padded, lengths = pad([np.array([3, 1, 2]), np.array([5])])
    >>> padded.tolist(), lengths.tolist()
    ([[3, 1, 2], [5, 0, 0]], [3, 1])
    """
    check_rows("sequences", sequences)
    rows = [index_row("sequences", sequence, i) for i, sequence in enumerate(sequences)]
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.zeros((len(rows), lengths.max(initial=0)), np.int64)
    for padded_row, row in zip(padded, rows, strict=True):
        padded_row[: len(row)] = row
    return padded, lengths


def pad_shifted(sequences: Sequence[np.ndarray], token: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad inputs that start with `token`, and targets that end with it, (m, T); return them and the lengths (m,)."""
    padded, lengths = pad(sequences)
    column = np.full((len(padded), 1), token)
    inputs, targets = np.hstack([column, padded]), np.hstack([padded, np.zeros_like(column)])
    targets[np.arange(len(padded)), lengths] = token
    return inputs, targets, lengths + 1
