"""Dropout masks."""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one optimizer step.

    A mask depends only on the seed, the layer and the time step. A sequence therefore gets the same masks whether it
    runs as a whole or in segments, and a resumed run needs no saved generator state.
    """

    seed: tuple[int, ...]  # for instance (seed of the run, number of the optimizer step)
    start: int = 0  # first time step of the sequence

    def at(self, start: int) -> "Masks":
        """Return the masks of a segment that starts at this time step."""
        return replace(self, start=start)

    def draw(self, place: str, rate: float, like: Array) -> Array:
        """Return an inverted-dropout mask: zero with probability `rate`, else 1 / (1 - rate).

        Source: N. Srivastava et al., JMLR 15 (2014).

        Parameters
        ----------
        place : str
            Name of the layer whose output is masked.
        rate : float, 0 <= rate < 1
        like : array, shape (n, m, T)
            An array of the shape, library, device and dtype of the mask.
        """
        n, m, n_steps = like.shape
        key = np.random.SeedSequence([*self.seed, zlib.crc32(place.encode())]).generate_state(2, np.uint64)
        kept = np.empty((n_steps, m, n), bool)
        for t in range(n_steps):
            rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.start + t]))
            kept[t] = rng.random((m, n), np.float32) >= rate
        xp, device = ns.common_namespace({"like": like})
        mask: Any = xp.astype(xp.asarray(kept, device=device), like.dtype) * (1 / (1 - rate))
        return xp.permute_dims(mask, (2, 1, 0))
