"""Dropout masks that depend on where they are used and not on what was drawn before."""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


@dataclass(frozen=True)
class Masks:
    """The dropout masks of one optimizer step.

    The mask of a place (a layer) and a time step is a function of the seed, the place and the step alone. So a
    sequence has the same masks whether it is run as a whole or in segments, and a resumed run those of the run it
    goes on with, without a generator's state to be kept.

    Parameters
    ----------
    seed : tuple of int
        For instance (seed of the run, number of the optimizer step).
    start : int
        Time step at which the sequence begins.
    """

    seed: tuple[int, ...]
    start: int = 0

    def at(self, start: int) -> "Masks":
        """The same masks for the part of a sequence that begins at this time step."""
        return replace(self, start=start)

    def draw(self, place: str, rate: float, like: Array) -> Array:
        """Inverted dropout, N. Srivastava et al., JMLR 15 (2014): zero with probability `rate`, else 1 / (1 - rate).

        Parameters
        ----------
        place : str
            Name of the layer whose output is masked.
        rate : float, 0 <= rate < 1
        like : array, shape (n, m, T)
            For shape, library, device and dtype.

        Returns
        -------
        array, shape (n, m, T)
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
