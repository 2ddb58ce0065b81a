"""The steps of a text, gathered into batches in any array library.

A text is an array of n character indices of any integer dtype, possibly a memory map. A step is a character and its
target, the next character. A batch has m rows of T steps.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import is_whole
from rnnx._core.copying import Portable
from rnnx._core.inputs import real_array
from rnnx._core.layout import valid_examples
from rnnx.data.batches import Batch, Gather, LateBatch

Pieces = Sequence[tuple[int, int]]


class Steps(Portable):
    """The steps of a text, numbered across all pieces, in any array library.

    The text has at least 2 characters. `pieces` are the parts (start, stop) of it to use, at least 2 characters each;
    default: all of it. No step crosses a piece boundary.
    """

    def __init__(self, indices: Array, pieces: Pieces | None = None) -> None:
        self.indices = self._text = text = _check_indices(indices)
        starts, stops = np.array(_check_pieces(pieces, len(text)), np.int64).T
        self.sizes = stops - 1 - starts
        self.ends = np.cumsum(self.sizes)
        self._range = int(starts.min()), int(stops.max())
        self._map = self.ends, stops - 1 - self.ends  # from the number of a step to its place in the text
        self._start = int(starts[0])  # with one piece, this is the whole map
        self._dtype: Any = np.int64
        self._xp, self._device = ns.common_namespace({"indices": text})

    def on_device(self, xp: Any, device: Any) -> Self:
        """Copy the text to a device; batches keep its dtype, or the next common one."""
        there, (start, stop) = copy.copy(self), self._range
        there._xp, there._device = xp, device
        common = next(t for t in (np.uint8, np.int32, np.int64) if np.can_cast(self._text.dtype, t) or t is np.int64)
        there._text = xp.asarray(np.ascontiguousarray(self._text[start:stop], common), device=device)
        there._dtype = there._text.dtype
        ends, shifts = self._map
        there._map = xp.asarray(ends, device=device), xp.asarray(shifts - start, device=device)
        there._start -= start
        return there

    def extremes(self) -> Batch:
        """Return all characters as one row, without a copy, for checks."""
        text = self.indices[None, slice(*self._range)]
        return Batch(text[:, :-1], text[:, 1:], None)

    def rows(self, firsts: np.ndarray, *, lengths: np.ndarray, continues: bool) -> Batch:
        """Build a batch of rows with these first steps and lengths, (m,), which wrap around at the end of the text."""
        n_steps = int(lengths.max())
        short = bool(lengths.min() < n_steps)
        rows = np.stack([firsts, lengths] if short else [firsts])
        build = partial(self._gathered, n_steps=n_steps, short=short)
        if ns.is_on_host(self._text):
            return Batch(*build(rows), lengths, continues)
        gather = Gather(build, rows, (n_steps, short), self, n_steps)
        return LateBatch(gather, partial(self._xp.asarray, device=self._device), lengths, continues)

    def _gathered(self, rows: Array, n_steps: int, short: bool) -> tuple[Array, Array]:
        """Return inputs and targets of `rows`: their first steps and, if some are short, their lengths."""
        xp, m = self._xp, rows.shape[1]
        steps = xp.arange(n_steps, dtype=xp.int64, device=self._device)[None, :]
        numbers = (rows[0, :, None] + steps) % int(self.ends[-1])
        places = self._places(xp.reshape(numbers, (-1,)))
        inputs, targets = (xp.reshape(self._take(at), (m, n_steps)) for at in (places, places + 1))
        if short:
            valid = valid_examples(xp, rows[1, :], n_steps)
            inputs, targets = (xp.where(valid, a, xp.zeros_like(a)) for a in (inputs, targets))
        return inputs, targets

    def _places(self, numbers: Array) -> Array:
        ends, shifts = self._map
        if len(self.sizes) == 1:
            return numbers + self._start if self._start else numbers
        return numbers + ns.take(self._xp, shifts, self._xp.searchsorted(ends, numbers, side="right"), axis=0)

    def _take(self, places: Array) -> Array:
        if ns.is_on_host(self._text):  # `take` would copy the whole text if it is not contiguous
            return self._text[places].astype(self._dtype)
        return ns.take(self._xp, self._text, places, axis=0)


def _check_indices(indices: Any) -> np.ndarray:
    array = np.asarray(real_array("indices", indices)[1])  # a view of a memory map
    if array.ndim != 1 or len(array) < 2 or not ns.is_integer(np, array):
        raise ValueError(
            f"`indices` must be integers of shape (n,) with n >= 2; got shape {array.shape}, dtype {array.dtype}"
        )
    return array


def _check_pieces(pieces: Pieces | None, n: int) -> list[tuple[int, int]]:
    try:
        checked = [(0, n)] if pieces is None else [(start, stop) for start, stop in pieces]
        whole = all(is_whole(place) for piece in checked for place in piece)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise TypeError("`pieces` must be a sequence of (start, stop), two integers each")
    for start, stop in checked:
        if not 0 <= start <= stop - 2 <= n - 2:
            got = f"(start, stop) = {(start, stop)}"
            raise ValueError(f"`pieces` must have at least 2 characters each, in [0, {n}]; got {got}")
    if not checked:
        raise ValueError("`pieces` must not be empty")
    return checked
