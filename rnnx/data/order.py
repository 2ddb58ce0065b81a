"""The order of the examples of an epoch."""

from typing import Any

import numpy as np

_IN_MEMORY = 1 << 25  # examples whose order takes 256 MiB
_ROUNDS = 6


def shuffled(n: int, rng: np.random.Generator) -> Any:
    """Return a random order of range(n), whose slices are arrays."""
    return rng.permutation(n) if n <= _IN_MEMORY else LargeOrder(n, rng)


class LargeOrder:
    """A random order of range(n) whose slices are computed when they are asked for, and which takes no memory.

    A Feistel network permutes the numbers below a power of 4; those of n and above are permuted again until they are
    below n, which takes less than four times on average.
    """

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n, half = n, -(-max(n - 1, 1).bit_length() // 2)
        self._half, self._mask = np.uint64(half), np.uint64((1 << half) - 1)
        self._keys = rng.integers(0, 1 << 64, _ROUNDS, dtype=np.uint64)

    def __getitem__(self, places: slice) -> np.ndarray:
        found = self._permuted(np.arange(*places.indices(self._n), dtype=np.uint64))
        while (outside := found >= self._n).any():
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._mask)
        return (left << self._half) | right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Return the numbers with their bits mixed, by the finalizer of SplitMix64 (G. L. Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
