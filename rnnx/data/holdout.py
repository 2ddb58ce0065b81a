"""Splits of examples between which nothing leaks."""

from typing import Any

import numpy as np

from rnnx._core.checks import generator, real
from rnnx.data.labels import plain_values


def split_by_group(groups: Any, validation: float = 0.2, *, seed: Any = 0) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups, such as the persons or machines that examples come from.

    Parameters
    ----------
    groups : sequence or array, shape (n,)
        The group of each example: text or integers.
    validation : float, in (0, 1)
        The part of the groups to hold out, at least one.
    seed : int or Generator

    Returns
    -------
    training, validation : array of int
        Indices of examples, increasing, for `Examples.take`. No group is in both.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two groups, or a group is missing (None, NaN or NA).
    """
    part, rng = real("validation", validation, "(0, 1)"), generator("seed", seed)
    own, shape = plain_values("groups", groups)
    if len(shape) != 1:
        raise ValueError(f"`groups` must have shape (n,); got {shape}")
    try:
        names = sorted(set(own))
    except TypeError:  # of several kinds
        names = sorted(set(own), key=lambda name: (str(name), type(name).__name__))
    places = {name: k for k, name in enumerate(names)}
    numbers = np.array([places[name] for name in own], np.int64)
    if len(names) < 2:
        raise ValueError(f"`groups` must have at least 2 groups, so that one can be held out; got {len(names)}")
    held = rng.permutation(len(names))[: min(max(1, round(part * len(names))), len(names) - 1)]
    is_held = np.isin(numbers, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
