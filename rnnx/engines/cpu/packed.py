"""Weights that are packed once for all passes of a model.

They are kept as long as the arrays that they were packed from, which must be immutable: those of `rnnx.quantize` are.
"""

import weakref
from collections.abc import Hashable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.descriptor.kept_weights import Matrix
from rnnx.engines.cpu.runtime.buffer_pool import aligned

_is_filled = attrgetter("is_filled")


class Packed:
    """The memory of a packed matrix, and whether it is filled."""

    __slots__ = ("is_filled", "memory")

    def __init__(self, size: int, stays: bool) -> None:
        self.memory = aligned(size, pooled=not stays)
        self.is_filled = False


class Matrices:
    """The packed matrices that a pass needs. Those that are kept live no longer than the weights."""

    __slots__ = ("__weakref__", "_ids", "_matrices", "memory")

    def __init__(self, weights: Sequence[np.ndarray], matrices: Sequence[Packed]) -> None:
        self._ids, self._matrices = tuple(map(id, weights)), matrices
        self.memory = tuple([matrix.memory for matrix in matrices])

    def are_of(self, weights: Sequence[np.ndarray]) -> bool:
        """Whether they are kept, and of these weights."""
        return self._ids == tuple(map(id, weights))

    @property
    def are_filled(self) -> bool:
        """Whether the weights have been packed."""
        return all(map(_is_filled, self._matrices))

    def fill(self) -> None:
        """Note that the weights have been packed."""
        for matrix in self._matrices:
            matrix.is_filled = True


class _Kept(NamedTuple):
    arrays: tuple[weakref.ref[np.ndarray], ...]
    matrices: dict[Matrix, Packed]
    of_passes: dict[tuple[Matrix, ...], Matrices]


_kept: dict[Hashable, _Kept] = {}


def packed(layer: Hashable, weights: Sequence[np.ndarray], sizes: Mapping[Matrix, int]) -> Matrices:
    """Return the packed matrices of a layer, of so many bytes each; new ones if the weights can change."""
    key = layer, *map(id, weights)
    if not all(isinstance(w.base, bytes) for w in weights):
        return Matrices((), [Packed(size, False) for size in sizes.values()])
    found = _kept.get(key)
    if found is None or not all(own() is w for own, w in zip(found.arrays, weights, strict=True)):
        references = tuple([weakref.ref(w, lambda _: _kept.pop(key, None)) for w in weights])
        found = _kept[key] = _Kept(references, {}, {})
    every, names = found.matrices, tuple(sizes)
    if names not in found.of_passes:
        own = [every.get(k) or every.setdefault(k, Packed(size, True)) for k, size in sizes.items()]
        return found.of_passes.setdefault(names, Matrices(weights, own))
    return found.of_passes[names]
