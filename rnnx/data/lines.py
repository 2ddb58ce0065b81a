"""Lines of a text given in chunks."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rnnx.data.tokenizer import NEWLINE

_MAX_UINT32 = (1 << 32) - 1
_LIST_LINES, _LIST_LENGTH = 20, 64  # minimum lines of a list, maximum characters per line


class LineViews(Sequence[np.ndarray]):
    """Lines as views of a text's indices, in less memory than a list of arrays."""

    def __init__(self, indices: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
        self.indices, self.starts, self.stops = indices, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: Any) -> Any:
        starts, stops = self.starts[i], self.stops[i]
        return LineViews(self.indices, starts, stops) if np.ndim(starts) else self.indices[starts:stops]


def line_bounds(chunks: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and stops of all non-blank lines, in 32 bits if they fit."""
    bounds = array("I")
    for start, stop, blank in _lines(chunks):
        if stop > _MAX_UINT32 and bounds.typecode == "I":
            bounds = array("Q", bounds)
        if not blank:
            bounds.extend((start, stop))
    starts, stops = np.asarray(bounds).reshape(-1, 2).T
    return starts, stops


def looks_like_list(chunks: Iterable[str]) -> bool:
    """Return whether a text is a list: at least 20 lines, at most 64 characters each, few blank lines between them."""
    n = blank_between = blank_since = 0
    for start, stop, blank in _lines(chunks):
        if blank:
            blank_since += n > 0
        elif stop - start > _LIST_LENGTH:
            return False
        else:
            n, blank_between, blank_since = n + 1, blank_between + blank_since, 0
    return n >= _LIST_LINES and blank_between * 10 <= n


def _lines(chunks: Iterable[str]) -> Iterator[tuple[int, int, bool]]:
    """Yield the start and stop of every line, and whether it is blank."""
    start = at = 0
    blank = True
    for chunk in chunks:
        first, *others = chunk.split(NEWLINE)
        at += len(first)
        blank = blank and not first.strip()
        for line in others:
            yield start, at, blank
            start = at + 1
            at, blank = start + len(line), not line.strip()
    if at > start:
        yield start, at, blank
