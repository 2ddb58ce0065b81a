"""What estimators take as `X`: arrays, lists and data frames, as sequences (n_x, n, T).

Dimensions: n sequences of T steps with n_x features.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from rnnx._core.inputs import host_array
from rnnx._core.words import shown
from rnnx.data import FrameSequences, sequences_from_frame
from rnnx.data.arrange import named_sequences
from rnnx.data.labels import plain_values
from rnnx.estimators.base import check_finite, not_masked

Sequences = tuple[np.ndarray, np.ndarray | None]  # (n_x, n, T), and lengths


def sequences_of(estimator: Any, X: Any, axes: str, reset: bool) -> Sequences:
    """Return arrays and lists as sequences; 2-D ones are checked as scikit-learn does.

    Parameters
    ----------
    estimator : BaseEstimator
    X : array or list
    axes : {"ntf", "nft"}
    reset : bool
        Whether this is what the estimator is fitted to, or must be like it.
    """
    if axes not in ("ntf", "nft"):
        raise ValueError(f"`axes` must be 'ntf' or 'nft'; got {shown(axes)}")
    not_masked("X", X)
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:  # of sequences
        X = [*X]
    kind = _kind(X)
    if kind == "table" and not reset and estimator.n_features_in_ == 1 and np.ndim(X) == 2:
        X, kind, axes = np.asarray(X)[:, :, None], "array", "ntf"  # fitted to sequences of one feature
    if kind == "table":
        if not reset and 1 < _model_inputs(estimator) == np.shape(X)[-1]:
            raise ValueError("`X` must hold several sequences, (n, T, n_x); of one, (T, n_x), pass X[None]")
        array = validate_data(estimator, X, reset=reset)[None]
        _check_features(estimator, 1, estimator.n_features_in_, reset)
        return array, None
    if kind == "array":
        array = host_array("X", X)
        check_finite("X", array)
        sequences, lengths = named_sequences("X", array, axes)
    else:
        for k, row in enumerate(X):
            check_finite(f"X[{k}]", host_array(f"X[{k}]", row))
        sequences, lengths = named_sequences("X", X, "t" if kind == "rows" else axes[1:])
    n_x, n, n_steps = sequences.shape
    if not n or not n_x or not (n_steps if lengths is None else max(lengths)):
        raise ValueError(f"`X` must hold at least one sequence, step and feature; got {np.shape(X) or len(X)}")
    _check_features(estimator, n_x, n_x, reset)
    return sequences, lengths


def frame_sequences(estimator: Any, X: Any, y: Any, id: str, time: str | None, reset: bool) -> FrameSequences:
    """Return the sequences of a data frame in long format; `y` may name the column of the targets."""
    if reset:
        columns = [*(X.keys() if isinstance(X, dict) else getattr(X, "columns", ()))]
        estimator.feature_names_in_ = np.array([c for c in columns if c not in (id, time, y)], object)
        estimator.n_features_in_ = len(estimator.feature_names_in_)
    names = [*estimator.feature_names_in_]
    if not names:
        raise ValueError("`X` must have columns of features besides those of `id`, `time` and `y`")
    return sequences_from_frame(X, id=id, time=time, inputs=names, target=y)


def labels_of(y: Any) -> Any:
    """Return labels as an array of their own kind; raise ValueError if one is missing."""
    if not isinstance(y, list | tuple) and not hasattr(y, "to_numpy") and getattr(y, "dtype", None) != np.dtype(object):
        return y
    own, shape = plain_values("y", y)
    one_kind = len(set(map(type, own))) == 1
    return np.array(own, None if one_kind else object).reshape(shape)


def is_frame(X: Any) -> bool:
    """Return whether this is a data frame, or a dict of columns."""
    return isinstance(X, dict) or (hasattr(X, "columns") and not isinstance(X, np.ndarray))


def _kind(X: Any) -> str:
    """Return "array" for three axes, "list" or "rows" for sequences of unequal lengths, otherwise "table"."""
    if isinstance(X, Iterator):
        raise TypeError(f"`X` must be an array, a list or a data frame; got {type(X).__name__}: pass list(X)")
    if not isinstance(X, list | tuple) or not len(X):
        n_axes = len(getattr(X, "shape", ()))
        if n_axes > 3:
            raise ValueError(f"`X` must have shape (n, T, n_x) or (n, T); got {tuple(X.shape)}")
        return "array" if n_axes == 3 else "table"
    try:
        shapes = [np.shape(row) for row in X]
    except ValueError:
        return "list"  # one of them is ragged, which a later check says
    axes = {len(shape) for shape in shapes}
    if axes == {2}:
        return "list"
    return "rows" if axes == {1} and len(set(shapes)) > 1 else "table"


def _model_inputs(estimator: Any) -> int:
    return int(estimator.model_.config["input_size"])


def _check_features(estimator: Any, n_x: int, n_columns: int, reset: bool) -> None:
    if reset:
        estimator.n_features_in_ = n_columns
    elif (expected := _model_inputs(estimator)) != n_x:
        raise ValueError(f"`X` must have {expected} features per step, as in `fit`; got {n_x}")
