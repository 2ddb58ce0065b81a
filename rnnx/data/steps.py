"""The steps of a text, gathered into batches in any array library.

A text is an array of n character indices of any integer dtype, possibly a memory map. A step is a character and its
target, the next character. A batch has m rows of T steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.copying import Portable
from rnnx._core.layout import valid_examples
from rnnx.data.batches import Batch

Pieces = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Rows:
    """The rows of a batch: the index of each row's first step, (m,), and its number of steps, (m,)."""

    firsts: np.ndarray
    lengths: np.ndarray
    continues: bool = False


class Steps(Portable):
    """The steps of a text, numbered across all pieces, in any array library.

    The text has at least 2 characters. `pieces` are the parts (start, stop) of it to use, at least 2 characters each;
    default: all of it. No step crosses a piece boundary.
    """

    def __init__(self, indices: Array, pieces: Pieces | None = None) -> None:
        self.text = text = _check_indices(indices)
        starts, stops = np.array(_check_pieces(pieces, len(text)), np.int64).T
        self.sizes = stops - 1 - starts
        self.ends = np.cumsum(self.sizes)
        self._range = int(starts.min()), int(stops.max())
        self._map = self.ends, stops - 1 - self.ends  # from the number of a step to its place in the text
        self._start = int(starts[0])  # with one piece, this is the whole mapping
        self._dtype: Any = np.int64
        self._xp, self._device = ns.common_namespace({"indices": text})

    def __len__(self) -> int:
        return int(self.ends[-1])

    def on_device(self, xp: Any, device: Any) -> "Steps":
        """Copy the text to a device; batches keep its dtype, or the next common one."""
        there, (start, stop) = copy.copy(self), self._range
        there._xp, there._device = xp, device
        common = next(t for t in (np.uint8, np.int32, np.int64) if np.can_cast(self.text.dtype, t) or t is np.int64)
        there.text = xp.asarray(np.ascontiguousarray(self.text[start:stop], common), device=device)
        there._dtype = there.text.dtype
        ends, shifts = self._map
        there._map = xp.asarray(ends, device=device), xp.asarray(shifts - start, device=device)
        there._start -= start
        return there

    def gather(self, rows: Rows) -> Batch:
        """Build a batch; row numbers wrap around at the end of the text."""
        xp, m, n_steps = self._xp, len(rows.firsts), int(rows.lengths.max())
        steps = xp.arange(n_steps, dtype=xp.int64, device=self._device)[None, :]
        numbers = (xp.asarray(rows.firsts, device=self._device)[:, None] + steps) % len(self)
        places = self._places(xp.reshape(numbers, (-1,)))
        inputs, targets = (xp.reshape(self._take(at), (m, n_steps)) for at in (places, places + 1))
        if rows.lengths.min() < n_steps:
            lengths: Any = xp.asarray(rows.lengths, device=self._device)
            valid = valid_examples(xp, lengths, n_steps)
            inputs, targets = (xp.where(valid, a, xp.zeros_like(a)) for a in (inputs, targets))
        return Batch(inputs, targets, rows.lengths, rows.continues)

    def _places(self, numbers: Array) -> Array:
        ends, shifts = self._map
        if len(self.sizes) == 1:
            return numbers + self._start if self._start else numbers
        return numbers + self._xp.take(shifts, self._xp.searchsorted(ends, numbers, side="right"), axis=0)

    def _take(self, places: Array) -> Array:
        if ns.is_on_host(self.text):  # `take` would copy the whole text if it is not contiguous
            return self.text[places].astype(self._dtype)
        return self._xp.take(self.text, places, axis=0)


def _check_indices(indices: Any) -> np.ndarray:
    array = np.asarray(indices)  # a view of a memory map
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
