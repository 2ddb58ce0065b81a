"""Splits of examples between which nothing leaks."""

from typing import Any

import numpy as np

from rnnx._core.checks import integer, real
from rnnx._core.randomness import RNG, generator, takes_rng
from rnnx.data.labels import plain_values


@takes_rng
def split_by_group(
    groups: Any, validation: float = 0.2, *, labels: Any = None, rng: RNG = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups, such as the persons or machines that examples come from.

    Parameters
    ----------
    groups : sequence or array, shape (n,)
        The group of each example: text or integers.
    validation : float, in (0, 1)
        The part of the groups to hold out, at least one.
    labels : sequence or array, shape (n,), optional
        Classes, which are spread evenly over both parts, as far as the groups allow it. Of each class, a group stays in
        the training part.
    rng : int, numpy.random.Generator or other seed
        See `numpy.random.default_rng`; also under its older name, `seed`.

    Returns
    -------
    training, validation : array of int
        Indices of examples, increasing, for `Examples.take`. No group is in both.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two groups, or a group is missing (None, NaN or NA).

    See Also
    --------
    folds_by_group, Examples

    Examples
    --------
    >>> from rnnx.data import split_by_group
    >>> persons = ["ann", "ann", "bob", "eve", "eve", "dan"]
    >>> training, validation = split_by_group(persons, validation=0.25)
    >>> {persons[i] for i in training} & {persons[i] for i in validation}  # nobody is in both
    set()
    >>> len({persons[i] for i in validation})
    1
    """
    part, random = real("validation", validation, "(0, 1)"), generator("rng", rng)
    names, numbers = _numbered(groups)
    if len(names) < 2:
        raise ValueError(f"`groups` must have at least 2 groups, so that one can be held out; got {len(names)}")
    count, order = min(max(1, round(part * len(names))), len(names) - 1), random.permutation(len(names))
    if labels is not None:
        kinds = _kinds(labels, numbers)
        order = order[np.argsort(kinds[order], kind="stable")]
        free = order[1:][kinds[order[1:]] == kinds[order[:-1]]]  # all but the first of each class
        if not len(free):
            raise ValueError("`labels` must have a class with at least 2 groups, so that one can be held out")
        count = min(count, len(free))
        order = free[(np.arange(count) * 2 + 1) * len(free) // (2 * count)]
    held = order[:count]
    is_held = np.isin(numbers, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


@takes_rng
def folds_by_group(groups: Any, folds: int = 5, *, labels: Any = None, rng: RNG = 0) -> list[np.ndarray]:
    """Divide whole groups of examples into parts for cross-validation, each of which is held out once.

    Parameters
    ----------
    groups : sequence or array, shape (n,)
        As for `split_by_group`; ``range(n)`` if every example may be held out by itself.
    folds : int
        At least 2.
    labels : sequence or array, shape (n,), optional
        Classes, which are spread evenly over the folds, as far as the groups allow it.
    rng : int, numpy.random.Generator or other seed
        See `numpy.random.default_rng`; also under its older name, `seed`.

    Returns
    -------
    list of array of int
        The indices to hold out in each fold, increasing, for `Examples.take`.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    See Also
    --------
    split_by_group, Examples

    Examples
    --------
    >>> from rnnx.data import folds_by_group
    >>> persons = ["ann", "ann", "bob", "eve", "eve", "dan"]
    >>> folds = folds_by_group(persons, folds=2)
    >>> sorted(int(i) for fold in folds for i in fold)  # every example is held out once
    [0, 1, 2, 3, 4, 5]
    >>> [sorted({persons[i] for i in fold}) for fold in folds]  # and no person is in two folds
    [['bob', 'dan'], ['ann', 'eve']]
    """
    folds, random = integer("folds", folds, 2), generator("rng", rng)
    names, numbers = _numbered(groups)
    if len(names) < folds:
        raise ValueError(f"`folds` = {folds} needs as many groups; got {len(names)}")
    order = random.permutation(len(names))
    if labels is not None:
        kinds = _kinds(labels, numbers)
        order = order[np.argsort(kinds[order], kind="stable")]
    fold = np.empty(len(names), int)
    fold[order] = np.arange(len(names)) % folds
    return [np.flatnonzero(fold[numbers] == k) for k in range(folds)]


def _kinds(labels: Any, numbers: np.ndarray) -> np.ndarray:
    """Return the number of the class of each group, that of its first example."""
    own, shape = plain_values("labels", labels)
    if shape != numbers.shape:
        raise ValueError(f"`labels` must have shape {numbers.shape}, like `groups`; got {shape}")
    first = np.unique(numbers, return_index=True)[1]
    kinds: np.ndarray = np.unique(np.array(own), return_inverse=True)[1][first]
    return kinds


def _numbered(groups: Any) -> tuple[list[Any], np.ndarray]:
    """Return the names of the groups, and the number of each example's group."""
    own, shape = plain_values("groups", groups)
    if len(shape) != 1:
        raise ValueError(f"`groups` must have shape (n,); got {shape}")
    try:
        names = sorted(set(own))
    except TypeError:  # of several kinds
        names = sorted(set(own), key=lambda name: (str(name), type(name).__name__))
    places = {name: k for k, name in enumerate(names)}
    return names, np.array([places[name] for name in own], np.int64)
