"""Measures of predictions on NumPy arrays, with scikit-learn's order of arguments and its results."""

from typing import Any

import numpy as np

from rnnx._core.checks import check_shape, choice, integer, real
from rnnx._core.inputs import host_array

__all__ = [
    "accuracy",
    "coverage",
    "f1_score",
    "mean_absolute_error",
    "mean_absolute_scaled_error",
    "pinball_loss",
    "roc_auc",
    "root_mean_squared_error",
]


def accuracy(targets: Any, predictions: Any, *, weights: Any = None) -> float:
    """Return the part of the predicted classes that are right.

    Parameters
    ----------
    targets : array of int, bool or str, any shape
    predictions : array
        Classes, shape of `targets`; or probabilities as models predict them, (num_classes, ...).
    weights : array, shape of `targets`, optional

    Raises
    ------
    ValueError, TypeError
        As all functions here: for wrong shapes, no numbers, NaN, or masked arrays.
    """
    wanted, found = _classes(targets, predictions)
    return _mean((wanted == found).astype(float), weights)


def f1_score(targets: Any, predictions: Any, *, average: str = "macro") -> Any:
    """Return the harmonic mean of precision and recall.

    Parameters
    ----------
    targets, predictions
        As for `accuracy`.
    average : {"macro", "micro", "weighted", "binary", "none"}
        Over the classes: their mean, all together, weighted by their number of targets, class 1 only, or one number
        for each class that occurs, in increasing order.
    """
    choice("average", average, ("macro", "micro", "weighted", "binary", "none"))
    wanted, found = (a.ravel() for a in _classes(targets, predictions))
    if average == "binary" and wanted.dtype.kind == "U":
        raise ValueError("`average` = 'binary' needs the classes 0 and 1; got names")
    classes, places = np.unique(np.concatenate([wanted, found]), return_inverse=True)
    if average == "binary":
        classes, places = np.array([0, 1]), (np.concatenate([wanted, found]) == 1).astype(int)
    pairs = np.zeros((len(classes), len(classes)))
    np.add.at(pairs, (places[: wanted.size], places[wanted.size :]), 1)
    right, support = np.diag(pairs), pairs.sum(axis=1)
    if average == "micro":
        return float(right.sum() / max(wanted.size, 1))
    both = support + pairs.sum(axis=0)
    scores = np.divide(2 * right, both, out=np.zeros(len(classes)), where=both > 0)
    if average == "none":
        return scores
    if average == "binary":
        return float(scores[1])
    return float(np.average(scores, weights=support if average == "weighted" else None))


def roc_auc(targets: Any, scores: Any) -> float:
    """Return the area under the ROC curve: how probable it is that a positive example has a higher score.

    Parameters
    ----------
    targets : array of int or bool, any shape
        Classes.
    scores : array
        Scores of class 1, shape of `targets`; or probabilities (num_classes, ...). Of more than two
        classes, the mean over the classes of each against all others.

    Raises
    ------
    ValueError
        Also if a class does not occur.
    """
    wanted, given = host_array("targets", targets), host_array("scores", scores)
    if given.ndim == wanted.ndim + 1 and given.shape[1:] == wanted.shape:
        if len(given) > 2:
            if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(given):
                raise ValueError(
                    f"`targets` must be classes in [0, {len(given)}); got {wanted.min()} to {wanted.max()}"
                )
            return float(np.mean([roc_auc(wanted == k, given[k]) for k in range(len(given))]))
        given = given[-1]
    check_shape("scores", given, "(of `targets`)", wanted.shape)
    if np.isnan(given).any():
        raise ValueError("`scores` must not hold NaN")
    if not np.isin(wanted, (0, 1)).all():
        raise ValueError(
            f"`targets` must be 0 or 1, of which `scores` are for 1; got {wanted[~np.isin(wanted, (0, 1))][0]}"
        )
    positive, (_, places, counts) = wanted.ravel() == 1, np.unique(given, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places.ravel()]  # equal scores share their mean rank
    n_positive, n = int(positive.sum()), positive.size
    if n_positive in (0, n):
        raise ValueError("`targets` must have positive and negative examples of every class")
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))


def mean_absolute_error(targets: Any, predictions: Any, *, weights: Any = None) -> float:
    """Return the mean of ``abs(target - prediction)``; arrays of one shape, and `weights` that broadcast to it."""
    wanted, found = _numbers(targets, predictions)
    return _mean(abs(wanted - found), weights)


def root_mean_squared_error(targets: Any, predictions: Any, *, weights: Any = None) -> float:
    """Return the square root of the mean of ``(target - prediction)**2``; arrays as for `mean_absolute_error`."""
    wanted, found = _numbers(targets, predictions)
    return float(np.sqrt(_mean((wanted - found) ** 2, weights)))


def mean_absolute_scaled_error(targets: Any, predictions: Any, history: Any, *, season: int = 1) -> float:
    """Return the absolute error, as a multiple of that of repeating the last season of the history.

    Parameters
    ----------
    targets, predictions : array, shape (..., horizon)
    history : array, shape (..., T)
        What came before, for the scale of each series: the mean of ``abs(history[t] - history[t - season])``.
    season : int
        Steps of a season; 1 compares with the last value.

    Raises
    ------
    ValueError
        Also if a history has at most `season` steps, or does not change.
    """
    wanted, found = _numbers(targets, predictions)
    past = host_array("history", history).astype(float)
    _check_finite(history=past)
    if past.ndim != wanted.ndim or past.shape[:-1] != wanted.shape[:-1] or past.shape[-1] <= integer("season", season):
        series = (*wanted.shape[:-1], "T")
        raise ValueError(f"`history` must have shape {series} with T > season = {season}; got {past.shape}")
    scale = abs(past[..., season:] - past[..., :-season]).mean(axis=-1, keepdims=True)
    if not (scale > 0).all():
        raise ValueError("`history` must change from season to season; got a scale of 0")
    return float((abs(wanted - found) / scale).mean())


def pinball_loss(targets: Any, predictions: Any, quantile: float, *, weights: Any = None) -> float:
    """Return the mean loss of a predicted quantile, which is least for the true one."""
    q = real("quantile", quantile, "(0, 1)")
    wanted, found = _numbers(targets, predictions)
    d = wanted - found
    return _mean(np.maximum(q * d, (q - 1) * d), weights)


def coverage(targets: Any, lower: Any, upper: Any, *, weights: Any = None) -> float:
    """Return the part of the targets from `lower` to `upper`; arrays of one shape."""
    wanted, low = _numbers(targets, lower, "lower")
    _, high = _numbers(targets, upper, "upper")
    return _mean(((low <= wanted) & (wanted <= high)).astype(float), weights)


def _numbers(targets: Any, predictions: Any, name: str = "predictions") -> tuple[np.ndarray, np.ndarray]:
    wanted, found = host_array("targets", targets).astype(float), host_array(name, predictions).astype(float)
    check_shape(name, found, "(of `targets`)", wanted.shape)
    if not wanted.size:
        raise ValueError("`targets` must hold at least one number")
    _check_finite(**{"targets": wanted, name: found})
    return wanted, found


def _classes(targets: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return classes, integers or names, and those that are predicted, also as probabilities."""
    wanted, found = _names_or_numbers("targets", targets), _names_or_numbers("predictions", predictions)
    probabilities = found.ndim == wanted.ndim + 1 and found.shape[1:] == wanted.shape
    if probabilities:
        _check_finite(predictions=found)
        n, found = len(found), found.argmax(axis=0)
        if wanted.size and (wanted.dtype.kind == "U" or wanted.min() < 0 or wanted.max() >= n):
            raise ValueError(f"`targets` must be classes in [0, {n}), of which `predictions` has the probabilities")
    check_shape("predictions", found, "(of `targets`)", wanted.shape)
    if not wanted.size:
        raise ValueError("`targets` must hold at least one class")
    if (wanted.dtype.kind == "U") != (found.dtype.kind == "U"):
        raise TypeError("`targets` and `predictions` must both hold names, or both integers")
    for name, array in {"targets": wanted, "predictions": found}.items():
        if array.dtype.kind == "f" and (array % 1 != 0).any():  # also of NaN
            hint = "; of probabilities there is one for each class, (num_classes, ...)" if name == "predictions" else ""
            raise ValueError(
                f"`{name}` must be classes, which are integers or names; got {array[array % 1 != 0][0]}{hint}"
            )
    return wanted, found


def _names_or_numbers(name: str, values: Any) -> np.ndarray:
    """Return an array of real numbers, or of text."""
    may_be_text = isinstance(values, list | tuple) or (type(values) is np.ndarray and values.dtype.kind in "OUT")
    if may_be_text:
        own = np.asarray(values, object)
        if own.size and all(isinstance(one, str) for one in own.flat):
            return own.astype(str)
    return host_array(name, values)


def _check_finite(**arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            place = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
            raise ValueError(f"`{name}` must be finite; got {array[place]} at index {place}")


def _mean(values: np.ndarray, weights: Any) -> float:
    if weights is None:
        return float(values.mean())
    own = np.broadcast_to(host_array("weights", weights).astype(float), values.shape)
    if (own < 0).any() or not own.sum() > 0:
        raise ValueError("`weights` must be numbers of at least 0, not all of them 0")
    return float(np.average(values, weights=own))
