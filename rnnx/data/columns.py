"""Columns of data frames of pandas, polars or any library with such columns; none is imported here."""

import datetime
from typing import Any

import numpy as np

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.data.labels import is_missing
from rnnx.data.times import months_between


def column(frame: Any, name: Any) -> np.ndarray:
    """Return a column of a frame as an array. Raise unless there is one of this name."""
    names = names_of(frame)
    if name not in names:
        index = getattr(frame, "index", None)
        here = name is not None and name in list(getattr(index, "names", ()))
        hint = "; it is the index: pass frame.reset_index()" if here else nearest(str(name), map(str, names))
        raise ValueError(f"the data frame has no column {name!r}{hint}")
    if names.count(name) > 1:
        raise ValueError(f"the data frame has {names.count(name)} columns {name!r}")
    values = frame[name]
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"the column {name!r} must not be a masked array, whose mask would be lost")
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"the column {name!r} must have shape (rows,); got {array.shape}")
    if isinstance(frame, dict) and len(array) != len(frame[names[0]]):
        others = len(frame[names[0]])
        raise ValueError(f"the column {name!r} must have the {others} rows of {names[0]!r}; got {len(array)}")
    return array


def names_of(frame: Any) -> list[Any]:
    """Return the names of the columns of a frame."""
    if callable(getattr(frame, "collect", None)):
        raise TypeError(f"`frame` must be a data frame; got {type(frame).__name__}: pass frame.collect()")
    names = [*(frame.keys() if isinstance(frame, dict) else getattr(frame, "columns", ()))]
    if not names:
        raise TypeError(f"`frame` must be a data frame with columns; got {shown(frame)}")
    return names


def listed_names(argument: str, names: Any) -> list[Any]:
    """Return the names of columns that an argument gives, a name or several, as a list of at least one."""
    if isinstance(names, str | int):
        return [names]
    if isinstance(names, dict | set) or not hasattr(names, "__iter__") or not len(found := list(names)):
        raise TypeError(f"`{argument}` must be a list of names of columns; got {shown(names)}")
    return found


def numbers_of(frame: Any, name: Any, *, missing: bool = False) -> np.ndarray:
    """Return a column of numbers as floats; raise unless all are numbers, or missing ones are allowed (NaN)."""
    values = column(frame, name)
    array = values if values.dtype.kind in "fiub" else _from_objects(name, values)
    array = array if array.dtype.kind == "f" else array.astype(float)
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        remedy = "fill or drop the missing rows first" if np.isnan(array[place]) else "it must be finite"
        raise ValueError(f"the column {name!r} holds {array[place]} in row {place}: {remedy}")
    return array


def _from_objects(name: Any, values: np.ndarray) -> np.ndarray:
    """Return numbers that are in an array of objects, such as those of a column with missing ones."""
    kinds = {"m": "dates", "M": "dates", "U": "text", "S": "text", "T": "text", "c": "complex numbers"}
    kind = kinds.get(values.dtype.kind, "objects")
    try:
        if kind != "objects" or any(isinstance(v, str | bytes) for v in values):
            raise TypeError
        return np.array([np.nan if is_missing(v) else v for v in values.tolist()], float)
    except (TypeError, ValueError):
        own = values.tolist()
        has_text = any(isinstance(v, str) for v in own)
        wrong = (k for k, v in enumerate(own) if (isinstance(v, str) if has_text else not isinstance(v, int | float)))
        place = next(wrong, 0)
        example = f", such as {own[place]!r:.50} in row {place}" if own else ""
        raise TypeError(f"the column {name!r} must hold numbers; got {kind}{example}") from None


def times_of(frame: Any, name: Any) -> np.ndarray:
    """Return a column of times, numbers or dates; dates with a time zone become those of UTC."""
    times = column(frame, name)
    if times.dtype.kind == "O":
        times = _dates(times)
    if times.dtype.kind not in "fiumM":
        hint = "; parse dates first, as with `pandas.to_datetime`" if times.dtype.kind in "OUST" else ""
        raise TypeError(f"the column {name!r} must hold numbers or dates; got {times.dtype}{hint}")
    if (bad := np.isnat(times) if times.dtype.kind in "mM" else ~np.isfinite(times)).any():
        place = int(np.flatnonzero(bad)[0])
        what = f"holds {times[place]}" if times.dtype.kind == "f" and np.isinf(times[place]) else "is missing"
        raise ValueError(f"the column {name!r} {what} in row {place}")
    return times


def _dates(values: np.ndarray) -> np.ndarray:
    """Return objects as dates if all of them are dates, the starts of periods, or missing; else unchanged."""
    starts: list[Any] = [None if is_missing(v) else getattr(v, "start_time", v) for v in values.tolist()]
    if not all(v is None or isinstance(v, datetime.date) for v in starts):
        return values
    zoned = [v.astimezone(datetime.UTC).replace(tzinfo=None) if getattr(v, "tzinfo", None) else v for v in starts]
    return np.array(["NaT" if v is None else v for v in zoned], "datetime64[us]")


def grouped(frame: Any, id: Any, time: Any, hint: str = "") -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Return the ids in order of appearance, the rows ordered by id and time, and where each id begins.

    `hint` is the end of the message about a time that occurs twice.
    """
    if id is None:
        names, numbers = [None], np.zeros(len(column(frame, time)), np.int64)
    else:
        known: dict[Any, int] = {}
        array = column(frame, id)
        missing = np.isnat(array) if array.dtype.kind in "mM" else np.array([is_missing(v) for v in array.tolist()])
        if missing.any():
            raise ValueError(f"the column {id!r} is missing in row {int(np.flatnonzero(missing)[0])}")
        numbers = np.array([known.setdefault(value, len(known)) for value in array.tolist()], np.int64)
        names = [*known]
    if not len(numbers):
        raise ValueError("the data frame has no rows")
    order = np.argsort(numbers, kind="stable")
    if time is not None:
        times = times_of(frame, time)
        order = np.lexsort((times, numbers))
        same = (np.diff(numbers[order]) == 0) & (times[order][1:] == times[order][:-1])
        if same.any():
            row = int(order[1:][same][0])
            of = "" if id is None else f" of {names[numbers[row]]!r}"
            raise ValueError(f"the column {time!r} has {times[row]!s} twice{of}, in row {row}{hint}")
    return names, order, np.searchsorted(numbers[order], np.arange(len(names)))


def check_spacing(name: Any, times: np.ndarray, id: Any) -> None:
    """Raise unless times are evenly spaced: by a constant difference or, for dates, a constant number of months."""
    steps = np.diff(times)
    if len(steps) < 2 or (np.isclose(steps, steps[0]) if times.dtype.kind == "f" else steps == steps[0]).all():
        return
    if months_between(times):
        return
    sizes, counts = np.unique(steps, return_counts=True)
    usual = sizes[counts.argmax()]
    place = int(np.flatnonzero(steps != usual)[0])
    of = "" if id is None else f" of {id!r}"
    between = f"from {times[place]!s} to {times[place + 1]!s}"
    raise ValueError(
        f"the column {name!r}{of} must be evenly spaced; it steps by {usual!s}, but {between}: "
        "add the missing rows, or pass allow_gaps=True"
    )
