"""What `Forecaster` takes as `y` and `X`: arrays, pandas and lists of them, as series.

Dimensions: T steps, n_t targets, n_f numbers that are known in advance.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from rnnx._core.words import in_words_of_the_caller
from rnnx.data import Series
from rnnx.data.columns import numbers_of
from rnnx.estimators.base import not_masked
from rnnx.estimators.times import Origin, origin_of

WORDS = {
    **{"`targets`": "`y`", "`series`": "`y`", "targets of series": "the values of series", "`future`": "`X`"},
    **{"`values`": "the values of `y`", "`validation_length` = ": "`validation_fraction`: holding out "},
}


def for_each(X: Any, listed: bool, n: int) -> list[Any]:
    """Return what is known in advance for each of n series; it is a list if `y` is one."""
    if not listed or X is None:
        return [X] * n
    if not isinstance(X, list | tuple) or len(X) != n:
        raise ValueError(f"`X` must be a list as long as `y`, {n}")
    return [*X]


def read(y: Any, X: Any, before: list[Origin] | None = None) -> tuple[list[Series], list[Origin]]:
    """Return the series of `y`, with what is known in advance, and what they were; `before`: what they go on from."""
    listed = isinstance(y, list | tuple) and len(y) > 0 and not np.isscalar(y[0])
    many = [*y] if listed else [y]
    if before is not None and len(many) != len(before):
        raise ValueError(f"`y` must have the {len(before)} series of `fit`; got {len(many)}")
    series, origins = [], []
    for k, (one, future) in enumerate(zip(many, for_each(X, listed, len(many)), strict=True)):
        if before is not None:
            one = _in_order("y", one, None if before[k].flat else before[k].names)
            future = _in_order("X", future, before[k].future)
        origin = origin_of(one, listed, goes_on=before is not None)
        origins.append(replace(origin, future=_names(future)))
        with in_words_of_the_caller(WORDS):
            if isinstance(one, Series):
                if future is not None:
                    raise ValueError("`X` must be None for a `Series`, which has what is known in advance as `future`")
                series.append(one)
            else:
                origin.check_index("X", future, ahead=False)
                series.append(_series(_rows("y", one), None if future is None else _rows("X", future)))
    return series, origins


def _series(targets: np.ndarray, future: np.ndarray | None) -> Series:
    """Return a series of numbers with the time last."""
    steps = targets.shape[-1]
    if future is not None and future.shape[-1] < steps:
        hint = ": pass X.T" if future.ndim == 2 and len(future) >= steps else ""
        raise ValueError(f"`X` must have at least the {steps} steps of `y`; got shape {future.T.shape}{hint}")
    return Series(targets, future=future)


def _names(values: Any) -> list[Any] | None:
    """Return the names of the columns of a frame."""
    return [*values.columns] if hasattr(values, "columns") else None


def _in_order(name: str, values: Any, columns: list[Any] | None) -> Any:
    """Return a frame with its columns in the order of those of `fit`, if that had a frame, too."""
    own = _names(values)
    if own is None or columns is None or own == columns:
        return values
    if len(own) != len(columns) or set(own) != set(columns):
        raise ValueError(f"`{name}` must have the columns of `fit`, {columns!r:.100}; got {own!r:.100}")
    return values[columns]


def _rows(name: str, values: Any) -> np.ndarray:
    """Return numbers with the time last; missing ones are NaN."""
    not_masked(name, values)
    if hasattr(values, "columns"):
        return np.stack([numbers_of(values, column, missing=True) for column in values.columns])
    if hasattr(values, "iloc"):  # a series of pandas
        return numbers_of({name: values}, name, missing=True)
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.ndim not in (1, 2):
        raise ValueError(f"`{name}` must have shape (T,) or (T, n); got {array.shape}")
    return array.T


def known(series: Series, origin: Origin, X: Any, need: int, horizon: int) -> Series:
    """Return a series with what is known in advance for `need` of the steps of the horizon, and repeated after them."""
    if series.future is None:
        raise ValueError("`X` must be given to `fit`, too")
    more = np.atleast_2d(_rows("X", _in_order("X", X, origin.future)))
    if len(more) != len(series.future):
        raise ValueError(f"`X` must have {len(series.future)} columns, as in `fit`; got {len(more)}")
    if more.shape[1] < need:
        raise ValueError(f"`X` must have the {need} steps after the last one of `y`; got {more.shape[1]}")
    more = np.pad(more, ((0, 0), (0, max(0, horizon - more.shape[1]))), mode="edge")
    return replace(series, future=np.concatenate([series.future[:, : series.targets.shape[1]], more], axis=1))


def joined(series: Series, after: Series) -> Series:
    """Return a series with the values of another one after it."""
    parts: dict[str, Any] = {}
    end = series.targets.shape[1]
    for name in ("targets", "past", "future"):
        first, second = getattr(series, name), getattr(after, name)
        if (first is None) != (second is None) or (first is not None and len(first) != len(second)):
            raise ValueError(f"`{name}` must have as many numbers per step as in `fit`")
        parts[name] = None if first is None else np.concatenate([first[:, :end], second], axis=1)
    return Series(**parts, static=series.static, id=series.id)
