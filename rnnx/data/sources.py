"""A dataset of anything that has a length and items, such as a Hugging Face dataset, which is read batch by batch."""

from typing import Any

import numpy as np

from rnnx._core.checks import check_methods, choice, flag
from rnnx._core.inputs import host_array, not_finite
from rnnx.data.arrange import as_sequences
from rnnx.data.batches import Batch, Shuffled


class Items(Shuffled[Batch]):
    """Examples that are read when a batch needs them, from an object with `__len__` and `__getitem__`.

    Parameters
    ----------
    source : object
        ``source[i]`` is one example: a tuple (inputs, target), or a dict (Arrow, Hugging Face datasets).
    inputs, target : str
        The keys of a dict.
    axes : {"tf", "ft", "t"}
        The axes of the inputs of an example; see `as_sequences`. Numbers of steps may differ.
    per_step : bool
        Whether an example has a target for each step: (T,) classes or (T, n_y) numbers; otherwise a class, or (n_y,)
        numbers.

    Raises
    ------
    ValueError, TypeError, FloatingPointError
        When a batch is read, if an example is not as described, or not finite; the message names it.

    See Also
    --------
    Examples, as_sequences

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Items
    >>> batch = next(Items([(np.ones((3, 2)), 0), (np.ones((5, 2)), 1)]).batches(2))
    >>> batch.inputs.shape, batch.targets.tolist(), batch.lengths.tolist()
    ((2, 2, 5), [0, 1], [3, 5])
    """

    def __init__(
        self, source: Any, *, inputs: str = "inputs", target: str = "target", axes: str = "tf", per_step: bool = False
    ) -> None:
        check_methods("source", source, "an object with `__len__` and `__getitem__`", "__len__", "__getitem__")
        if hasattr(source, "keys"):
            hint = "of data frames see `sequences_from_frame`, of arrays `Examples`"
            raise TypeError(
                f"`source` must have examples as its items; got columns, in {type(source).__name__}: {hint}"
            )
        self.source, self.inputs, self.target = source, inputs, target
        self.axes = choice("axes", axes, ("tf", "ft", "t"))
        self.per_step = flag("per_step", per_step)

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, chosen: np.ndarray) -> Batch:
        """Read the examples with these indices, and pad them to the longest."""
        pairs = [self._pair(int(i)) for i in chosen]
        try:
            inputs, lengths = as_sequences([x for x, _ in pairs], self.axes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the examples {[*map(int, chosen)]!r:.100} of `source` do not fit: {error}") from None
        targets = [host_array(f"source[{i}]: {self.target}", y) for i, (_, y) in zip(chosen, pairs, strict=True)]
        for i, x, y, n in zip(chosen, pairs, targets, np.asarray(lengths), strict=True):
            if self.per_step and (y.ndim not in (1, 2) or len(y) != n):
                raise ValueError(f"source[{i}] must have a target for each of its {n} steps; got shape {y.shape}")
            own, first = (a.shape[1:] if self.per_step else a.shape for a in (y, targets[0]))
            if own != first:
                raise ValueError(f"source[{i}] must have a target of shape {first}, as source[{chosen[0]}]; got {own}")
            for name, values in ((self.inputs, np.asarray(x[0])), (self.target, y)):
                if found := not_finite(name, values, None):
                    raise FloatingPointError(f"source[{i}]: {found}")
        return Batch(inputs, self._stacked(targets, int(inputs.shape[-1])), lengths)

    def _pair(self, i: int) -> tuple[Any, Any]:
        item = self.source[i]
        if isinstance(item, tuple) and len(item) == 2:
            x, y = item
        elif hasattr(item, "keys"):
            missing = [key for key in (self.inputs, self.target) if key not in item]
            if missing:
                raise ValueError(f"source[{i}] must have the keys {[self.inputs, self.target]}; got {[*item]!r:.200}")
            x, y = item[self.inputs], item[self.target]
        else:
            raise TypeError(f"source[{i}] must be a tuple (inputs, target) or a dict; got {type(item).__name__}")
        return x, y if isinstance(y, list | tuple | np.ma.MaskedArray) else np.asarray(y)

    def _stacked(self, targets: list[np.ndarray], n_steps: int) -> np.ndarray:
        if self.per_step:
            padded = np.zeros((len(targets), n_steps, *targets[0].shape[1:]), np.result_type(*targets))
            for row, y in zip(padded, targets, strict=True):
                row[: len(y)] = y
            return padded.transpose(2, 0, 1) if padded.ndim == 3 else padded
        stacked = np.stack(targets)
        return stacked.T if stacked.ndim == 2 else stacked if stacked.dtype.kind != "f" else stacked[None]
