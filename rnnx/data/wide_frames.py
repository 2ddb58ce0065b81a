"""Examples and series from data frames in wide format: a column for each step, or for each series."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core.checks import flag
from rnnx.data.columns import check_spacing, grouped, listed_names, names_of, numbers_of, times_of
from rnnx.data.frames import FrameSequences, targets_of
from rnnx.data.time_series import Series


def sequences_from_wide_frame(
    frame: Any,
    *,
    steps: Sequence[str] | Mapping[str, Sequence[str]],
    id: str | None = None,
    target: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
) -> FrameSequences:
    """Return the sequences of a data frame with a row for each sequence and a column for each step.

    Parameters
    ----------
    frame : data frame
        Of pandas or polars, or a dict of arrays.
    steps : list of str, or dict of str to list of str
        The columns of the steps in their order, such as ``list(frame.columns[1:])``; of several features, a list for
        each. Numbers that are missing at the end of a row are padding, so that sequences may differ in length.
    id : str, optional
        A column of names of the sequences; default: their numbers.
    target, classes
        As for `sequences_from_frame`, with a target for each row.

    Raises
    ------
    ValueError, TypeError
        If a column is missing or does not hold numbers, features differ in their numbers of steps, or numbers are
        missing before the end of a row.

    See Also
    --------
    sequences_from_frame, series_from_wide_frame

    Examples
    --------
    >>> from rnnx.data import sequences_from_wide_frame
    >>> table = {"label": ["run", "sit"], "t0": [1.0, 4.0], "t1": [2.0, 5.0], "t2": [3.0, float("nan")]}
    >>> found = sequences_from_wide_frame(table, steps=["t0", "t1", "t2"], target="label")
    >>> found.inputs.tolist(), found.lengths.tolist(), found.targets.tolist()
    ([[[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]]], [3, 2], [0, 1])
    """
    features = [*steps.values()] if isinstance(steps, Mapping) else [steps]
    columns = [listed_names("steps", names) for names in features]
    if len({len(names) for names in columns}) != 1:
        raise ValueError(f"`steps` must have as many columns for each feature; got {[len(n) for n in columns]}")
    numbers = np.stack([np.stack([numbers_of(frame, n, missing=True) for n in names], axis=1) for names in columns])
    if not numbers.shape[1]:
        raise ValueError("the data frame has no rows")
    known = ~np.isnan(numbers)
    lengths = known.all(axis=0).sum(axis=1)
    wrong = np.argwhere(known != (np.arange(numbers.shape[2]) < lengths[:, None]))
    if len(wrong):
        feature, row, step = wrong[0].tolist()
        where = f"the column {columns[feature][step]!r} must hold a number in row {row}"
        raise ValueError(f"{where}, like the columns around it: numbers may only be missing at the end of a row")
    ids = [*range(numbers.shape[1])] if id is None else grouped(frame, id, None)[0]
    if len(ids) != numbers.shape[1]:
        raise ValueError(f"the column {id!r} must have a name of its own for each of the {numbers.shape[1]} rows")
    targets, classes = (None, None) if target is None else targets_of(frame, target, classes)
    filled = np.where(known, numbers, 0)
    return FrameSequences(filled, lengths, ids, targets, None if classes is None else list(classes))


def series_from_wide_frame(
    frame: Any,
    *,
    time: str | None = None,
    targets: Sequence[str] | None = None,
    future: Sequence[str] = (),
    allow_gaps: bool = False,
) -> list[Series]:
    """Return the series of a data frame with a column for each series, for `SeriesWindows`.

    A series begins with the first number of its column and ends with the last; rows after that are its future.

    Parameters
    ----------
    frame : data frame
        Of pandas or polars, or a dict of arrays.
    time : str, optional
        The column of times; without it, rows are in order.
    targets : list of str, optional
        The columns of the series, whose names become their ids; default: all other columns.
    future : list of str
        Columns that are known in advance, for all series; see `Series`.
    allow_gaps : bool
        As for `series_from_frame`.

    Raises
    ------
    ValueError, TypeError
        As for `series_from_frame`.

    See Also
    --------
    Series, SeriesWindows, series_from_frame

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import series_from_wide_frame
    >>> table = {"hour": [0, 1, 2, 3], "Rome": [3.0, 4.0, 5.0, 6.0], "Oslo": [np.nan, 1.0, 2.0, np.nan]}
    >>> [(series.id, series.targets.tolist()) for series in series_from_wide_frame(table, time="hour")]
    [('Rome', [[3.0, 4.0, 5.0, 6.0]]), ('Oslo', [[1.0, 2.0]])]
    """
    allow_gaps = flag("allow_gaps", allow_gaps)
    ahead = listed_names("future", future) if len(future) else []
    names = [n for n in names_of(frame) if n != time and n not in ahead] if targets is None else targets
    names = listed_names("targets", names)
    columns = {name: numbers_of(frame, name, missing=True) for name in names}
    order = np.arange(len(columns[names[0]]))
    if time is not None:
        order = grouped(frame, None, time)[1]
        times = times_of(frame, time)[order]
        if not allow_gaps:
            check_spacing(time, times, None)
    known_ahead = np.stack([numbers_of(frame, name)[order] for name in ahead]) if ahead else None
    series = []
    for name, values in columns.items():
        known = np.flatnonzero(~np.isnan(values[order]))
        if not known.size:
            raise ValueError(f"the column {name!r} must hold numbers; all are missing")
        start, stop = int(known[0]), int(known[-1]) + 1
        of_future = None if known_ahead is None else known_ahead[:, start:]
        own_times = None if time is None else times[start:]
        series.append(Series(values[order][start:stop], future=of_future, id=name, times=own_times))
    return series
