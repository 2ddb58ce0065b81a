"""Weights that are packed once for all passes of a model.

They are kept as long as the arrays that they were packed from, which must be read-only: those of `rnnx.quantize` are.
"""

import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.descriptor.forward import Matrix
from rnnx.engines.cpu.runtime.buffer_pool import aligned


class Packed:
    """The memory of a packed matrix, and whether it is filled."""

    __slots__ = ("is_filled", "memory")

    def __init__(self, size: int, stays: bool) -> None:
        self.memory = aligned(size, pooled=not stays)
        self.is_filled = False


class _Kept(NamedTuple):
    arrays: tuple[weakref.ref[np.ndarray], ...]
    matrices: dict[Matrix, Packed]


_kept: dict[Hashable, _Kept] = {}


def packed(layer: Hashable, weights: Sequence[np.ndarray], sizes: Mapping[Matrix, int]) -> list[Packed]:
    """Return the packed matrices of a layer, of so many bytes each; new ones if the weights can change."""
    key = layer, *map(id, weights)
    if not all(w.base is None and not w.flags.writeable for w in weights):
        return [Packed(size, False) for size in sizes.values()]
    found = _kept.get(key)
    if found is None or not all(own() is w for own, w in zip(found.arrays, weights, strict=True)):
        references = tuple([weakref.ref(w, lambda _: _kept.pop(key, None)) for w in weights])
        found = _kept[key] = _Kept(references, {})
    matrices = found.matrices
    return [matrices.get(k) or matrices.setdefault(k, Packed(size, True)) for k, size in sizes.items()]
