"""The masks of dropout and zoneout. Dimensions: n features, m examples, T steps."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.words import shown


@dataclass(frozen=True)
class Masks:
    """The masks of dropout and zoneout of one optimizer step.

    A mask depends only on the seed, the layer and the time step. A sequence therefore gets the same masks whether it
    runs as a whole or in segments, and a resumed run needs no saved generator state.

    Parameters
    ----------
    seed : tuple of int
        For instance (seed of the run, number of the optimizer step).
    start : int
        First time step of the sequence.

    See Also
    --------
    Recurrent, rnnx.training.Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Masks
    >>> masks = Masks(seed=(0, 17))  # the 17th step of the run with seed 0
    >>> mask = masks.draw("layer 0", 0.5, like=np.empty((4, 2, 6)))  # (n, m, T)
    >>> sorted({float(value) for value in mask.flat})
    [0.0, 2.0]
    >>> segment = masks.at(3).draw("layer 0", 0.5, like=np.empty((4, 2, 3)))
    >>> bool((segment == mask[:, :, 3:]).all())
    True
    """

    seed: tuple[int, ...]
    start: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, tuple):
            raise TypeError(f"`seed` must be a tuple of integers; got {shown(self.seed)}")
        for number in self.seed:
            integer("seed", number, 0)
        integer("start", self.start, 0)

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
        return self.kept(place, rate, tuple(like.shape), like, 1 / (1 - rate))

    def kept(self, place: str, rate: float, shape: tuple[int, ...], like: Array, value: float = 1.0) -> Array:
        """Return a mask (n, m, T), 0 with probability `rate`, else `value`, in the library and dtype of `like`."""
        xp, device = ns.namespace(like), ns.device(like)
        there = None if 0 in shape else engines.masks(xp)
        if there is not None:
            return there(self.key_on_device(place, like), self.start, rate, shape, like, value)
        n, m, n_steps = shape
        key, kept = self.key(place), np.empty((n_steps, m, n), bool)
        for t in range(n_steps):
            rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.start + t]))
            kept[t] = rng.random((m, n), np.float32) >= rate
        mask = xp.permute_dims(xp.astype(xp.asarray(kept, device=device), like.dtype), (2, 1, 0))
        return mask if value == 1 else mask * value

    def key(self, place: str) -> np.ndarray:
        """Return the two 64-bit words of the random generator of a layer."""
        return np.random.SeedSequence([*self.seed, zlib.crc32(place.encode())]).generate_state(2, np.uint64)

    def key_on_device(self, place: str, like: Array) -> Array:
        """Return `key` as two int64, on the device of an array."""
        return ns.namespace(like).asarray(self.key(place).view(np.int64), device=ns.device(like))


def dropped(x: Array, masks: Masks, place: str, rate: float) -> tuple[Array, Callable[[Array], Array]]:
    """Apply the mask of `Masks.draw` to x (n, m, T), which may be overwritten.

    Return the result, and a function that applies it to the cotangent of the result, which it may overwrite, too.
    """
    own = None if 0 in x.shape else engines.dropout(ns.namespace(x))
    found = own and own(masks.key_on_device(place, x), masks.start, rate, x, 1 / (1 - rate))
    if found is not None:
        return found
    again = partial(_product, masks.draw(place, rate, x))
    return again(x), again


@ignore_harmless_errors
def _product(mask: Array, x: Array) -> Array:
    return x * mask
