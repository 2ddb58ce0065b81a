"""Weights in a small format, packed once for all passes of a model.

They are kept as long as the arrays that they were packed from, which must be read-only: those of `rnnx.quantize` are.
"""

import weakref
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import aligned


class Packed(NamedTuple):
    """The memory of packed matrices, and the numbers of those that are packed already."""

    memory: np.ndarray
    done: set[int]


class _Kept(NamedTuple):
    arrays: tuple[weakref.ref[np.ndarray], ...]
    packed: Packed


_kept: dict[Hashable, _Kept] = {}


def packed(layout: Hashable, weights: Sequence[np.ndarray], size: int) -> Packed:
    """Return the memory for these weights, in a layout of so many bytes; new memory if they can change."""
    key = layout, *map(id, weights)
    stays = all(w.base is None and not w.flags.writeable for w in weights)
    found = _kept.get(key) if stays else None
    if found is not None and all(own() is w for own, w in zip(found.arrays, weights, strict=True)):
        return found.packed
    new = Packed(aligned(size, pooled=not stays), set())
    if stays:
        references = tuple([weakref.ref(w, lambda _: _kept.pop(key, None)) for w in weights])
        _kept[key] = _Kept(references, new)
    return new
