"""What estimators take as `X`: arrays, lists and data frames, as sequences (n_x, n, T).

Dimensions: n sequences of T steps with n_x features.
"""

from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from rnnx._core.inputs import host_array
from rnnx._core.words import shown
from rnnx.data import FrameSequences, sequences_from_frame
from rnnx.data.arrange import named_sequences
from rnnx.estimators.base import check_finite

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
    kind = _kind(X)
    if kind == "table":
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
    n_x, n = sequences.shape[:2]
    if not n:
        raise ValueError("`X` must hold at least one sequence")
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


def is_frame(X: Any) -> bool:
    """Return whether this is a data frame, or a dict of columns."""
    return isinstance(X, dict) or (hasattr(X, "columns") and not isinstance(X, np.ndarray))


def _kind(X: Any) -> str:
    """Return "array" for three axes, "list" or "rows" for sequences of unequal lengths, otherwise "table"."""
    if not isinstance(X, list | tuple) or not len(X):
        return "array" if len(getattr(X, "shape", ())) == 3 else "table"
    try:
        shapes = [np.shape(row) for row in X]
    except ValueError:
        return "list"  # one of them is ragged, which a later check says
    axes = {len(shape) for shape in shapes}
    if axes == {2}:
        return "list"
    return "rows" if axes == {1} and len(set(shapes)) > 1 else "table"


def _check_features(estimator: Any, n_x: int, n_columns: int, reset: bool) -> None:
    if reset:
        estimator.n_features_in_ = n_columns
    elif (expected := estimator.model_.config["input_size"]) != n_x:
        raise ValueError(f"`X` must have {expected} features per step, as in `fit`; got {n_x}")
