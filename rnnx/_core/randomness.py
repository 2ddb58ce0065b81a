"""Random numbers: public functions take `rng`, as scientific Python does (SPEC 7), and its older name, `seed`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from rnnx._core.checks import is_whole
from rnnx._core.words import shown

P = ParamSpec("P")
R = TypeVar("R")
RNG = int | Sequence[int] | np.ndarray | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None
_EXPECTED = "an integer of at least 0, a numpy.random.Generator or other seed, or None"
_OF_NUMPY = np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None


def generator(name: str, rng: Any) -> np.random.Generator:
    """Return `numpy.random.default_rng(rng)`: a generator is returned unchanged, None gives one with a random seed."""
    if isinstance(rng, _OF_NUMPY):
        return np.random.default_rng(rng)
    numbers = np.ravel(rng).tolist() if isinstance(rng, np.ndarray) and rng.dtype.kind in "iu" else rng
    if isinstance(numbers, list | tuple) and len(numbers) and all(is_whole(n) and n >= 0 for n in numbers):
        return np.random.default_rng([int(n) for n in numbers])
    if is_whole(rng) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise (ValueError if is_whole(rng) else TypeError)(f"`{name}` must be {_EXPECTED}; got {shown(rng)}")


def takes_rng(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function with the parameter `rng` take it as `seed`, too, which messages then name."""

    @functools.wraps(function)
    def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
        if "seed" in kwargs:
            if "rng" in kwargs:
                raise TypeError("`seed` is the older name of `rng`: pass one of them, not both")
            kwargs["rng"] = generator("seed", kwargs.pop("seed"))
        return function(*args, **kwargs)

    return renamed
