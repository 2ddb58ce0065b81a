"""Examples and series from data frames of pandas, polars or any library with such columns; none is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.checks import flag, nearest
from rnnx._core.words import shown
from rnnx.data.examples import Examples
from rnnx.data.scaling import encode_labels
from rnnx.data.series import Series
from rnnx.data.times import months_between


@dataclass(frozen=True, eq=False)
class FrameSequences:
    """The sequences of a data frame.

    Attributes
    ----------
    inputs : array, shape (n_x, n, T)
        Zero past the lengths.
    lengths : array of int, shape (n,)
    ids : list
        The id of each sequence, in order of their first rows.
    targets : array or None
        As `Examples` takes them.
    classes : list or None
        The label of each class.
    """

    inputs: np.ndarray
    lengths: np.ndarray
    ids: list[Any]
    targets: np.ndarray | None
    classes: list[Any] | None

    def examples(self, *, weights: Any = None) -> Examples:
        """Return the sequences as a dataset. Raise ValueError if there are no targets."""
        if self.targets is None:
            raise ValueError("a dataset needs targets: pass `target`, the name of a column")
        return Examples(self.inputs, self.targets, lengths=self.lengths, weights=weights)


def sequences_from_frame(
    frame: Any,
    *,
    id: str,
    inputs: Sequence[str],
    time: str | None = None,
    target: str | Sequence[str] | None = None,
    per_step: bool = False,
    classes: Sequence[Any] | None = None,
) -> FrameSequences:
    """Return the sequences of a data frame in long format: a row for each step.

    Parameters
    ----------
    frame : data frame
        Of pandas or polars, or a dict of arrays.
    id, time : str
        The columns that say which sequence a row belongs to, and its place there; without `time`, rows are in order.
    inputs : list of str
        The columns of features.
    target : str or list of str, optional
        A column of labels (text, integers, booleans), which become classes, or columns of numbers to predict.
    per_step : bool
        Whether each row has a target of its own; otherwise all rows of a sequence have the same.
    classes : sequence, optional
        The classes of an earlier call, so that indices mean the same; see `encode_labels`.

    Raises
    ------
    ValueError, TypeError
        If a column is missing, or has missing or wrong values; if a sequence has two rows of one time, or two targets.

    Examples
    --------
    >>> from rnnx.data import sequences_from_frame
    >>> table = {"who": ["a", "a", "b"], "x": [1.0, 2.0, 3.0], "label": ["run", "run", "walk"]}
    >>> found = sequences_from_frame(table, id="who", inputs=["x"], target="label")
    >>> found.inputs.tolist(), found.lengths.tolist(), found.targets.tolist(), found.classes
    ([[[1.0, 2.0], [3.0, 0.0]]], [2, 1], [0, 1], ['run', 'walk'])
    """
    per_step = flag("per_step", per_step)
    ids, order, starts = _grouped(frame, id, time)
    lengths = np.diff(np.append(starts, len(order)))
    steps = np.arange(lengths.max(initial=0))
    inside = steps < lengths[:, None]
    rows = order[np.where(inside, starts[:, None] + steps, 0)]  # (n, T)
    features = np.stack([numbers_of(frame, name) for name in _names("inputs", inputs)])
    sequences = np.where(inside, features[:, rows], 0)
    targets = None
    if target is not None:
        of_rows, classes = _targets(frame, target, classes)
        if per_step:
            targets = np.where(inside, of_rows[..., rows], np.zeros((), of_rows.dtype))
        else:
            targets = of_rows[..., rows[:, 0]]
            differs = ((of_rows[..., rows] != targets[..., None]) & inside).reshape(-1, *inside.shape).any(axis=(0, 2))
            if differs.any():
                own = ids[int(np.flatnonzero(differs)[0])]
                raise ValueError(
                    f"`target` must be one per sequence; {own!r} of {id!r} has several: pass per_step=True"
                )
    return FrameSequences(sequences, lengths, ids, targets, None if classes is None else list(classes))


def series_from_frame(
    frame: Any,
    *,
    target: str | Sequence[str],
    time: str,
    id: str | None = None,
    past: Sequence[str] = (),
    future: Sequence[str] = (),
    static: Sequence[str] = (),
    allow_gaps: bool = False,
) -> list[Series]:
    """Return the series of a data frame, one for each id, for `SeriesWindows`.

    Rows after the last target, where `target` is missing, are the future: they have the numbers that are known in
    advance.

    Parameters
    ----------
    frame, id, time
        As for `sequences_from_frame`.
    target : str or list of str
        The columns to forecast.
    past, future, static : lists of str
        Further columns; see `Series`.
    allow_gaps : bool
        Whether times may be unevenly spaced, such as business days; they are then taken as steps like all others.

    Raises
    ------
    ValueError, TypeError
        As for `sequences_from_frame`, and if times are not evenly spaced.
    """
    allow_gaps = flag("allow_gaps", allow_gaps)
    ids, order, starts = _grouped(frame, id, time)
    numbers = {"target": np.stack([numbers_of(frame, name, missing=True) for name in _names("target", target)])}
    for kind, names in {"past": past, "future": future, "static": static}.items():
        if len(names):
            columns = [numbers_of(frame, name, missing=kind == "past") for name in _names(kind, names)]
            numbers[kind] = np.stack(columns)
    times, series = column(frame, time), []
    for name, rows in zip(ids, np.split(order, starts[1:]), strict=True):
        own = {kind: a[:, rows] for kind, a in numbers.items()}
        if not allow_gaps:
            _check_spacing(time, times[rows], name if id else None)
        known = np.flatnonzero(~np.isnan(own["target"]).all(axis=0))
        stop = int(known[-1]) + 1 if known.size else 0
        if not stop:
            raise ValueError(f"`target` of {name!r} must hold numbers; all are missing")
        statics = own.get("static")
        if statics is not None and (statics != statics[:, :1]).any():
            raise ValueError(f"`static` columns must be constant in each series; those of {name!r} are not")
        past_of = own["past"][:, :stop] if "past" in own else None
        fixed = None if statics is None else statics[:, 0]
        own_id = name if id else None
        series.append(Series(own["target"][:, :stop], past_of, own.get("future"), fixed, own_id, times[rows]))
    return series


def column(frame: Any, name: str) -> np.ndarray:
    """Return a column of a frame as an array. Raise ValueError if there is none of this name."""
    names = [*(frame.keys() if isinstance(frame, dict) else getattr(frame, "columns", ()))]
    if not names:
        raise TypeError(f"`frame` must be a data frame with columns; got {shown(frame)}")
    if name not in names:
        raise ValueError(f"the data frame has no column {name!r}{nearest(str(name), map(str, names))}")
    values = frame[name]
    return values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)


def numbers_of(frame: Any, name: str, *, missing: bool = False) -> np.ndarray:
    """Return a column of numbers as floats; raise unless all are numbers, or missing ones are allowed (NaN)."""
    values = column(frame, name)
    if values.dtype.kind not in "fiub":
        kind = "dates" if values.dtype.kind in "mM" else "text" if values.dtype.kind in "UST" else "objects"
        try:
            if kind != "objects" or any(isinstance(v, str | bytes) for v in values):
                raise TypeError
            values = np.array([np.nan if v is None or v is not v or v != v else v for v in values.tolist()], float)
        except (TypeError, ValueError):
            place = next((k for k, v in enumerate(values.tolist()) if isinstance(v, str)), 0)
            example = f", such as {values.tolist()[place]!r:.50} in row {place}" if len(values) else ""
            raise TypeError(f"the column {name!r} must hold numbers; got {kind}{example}") from None
    array = values if values.dtype.kind == "f" else values.astype(float)
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        place = int(np.flatnonzero(bad)[0])
        remedy = "fill or drop the missing rows first" if np.isnan(array[place]) else "it must be finite"
        raise ValueError(f"the column {name!r} holds {array[place]} in row {place}: {remedy}")
    return array


def _names(argument: str, names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Sequence) or not len(names) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"`{argument}` must be a list of names of columns; got {shown(names)}")
    return list(names)


def _targets(frame: Any, target: Any, classes: Any) -> tuple[np.ndarray, Any]:
    """Return the targets of all rows, classes (rows,) or numbers (n_y, rows), and the classes."""
    if isinstance(target, str):
        values = column(frame, target)
        if values.dtype.kind != "f" or classes is not None:
            try:
                return encode_labels(values, classes)
            except (TypeError, ValueError) as error:
                raise type(error)(f"the column {target!r}: {error}") from None
    return np.stack([numbers_of(frame, name) for name in _names("target", target)]), None


def _grouped(frame: Any, id: str | None, time: str | None) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Return the ids in order of appearance, the rows ordered by id and time, and where each id begins."""
    if id is None:
        names, numbers = [None], np.zeros(len(column(frame, str(time))), np.int64)
    else:
        known: dict[Any, int] = {}
        values = column(frame, id).tolist()
        for place, value in enumerate(values):
            if value is None or value != value:
                raise ValueError(f"the column {id!r} is missing in row {place}")
        numbers = np.array([known.setdefault(value, len(known)) for value in values], np.int64)
        names = [*known]
    if not len(numbers):
        raise ValueError("the data frame has no rows")
    order = np.argsort(numbers, kind="stable")
    if time is not None:
        times = column(frame, time)
        if times.dtype.kind not in "fiumM":
            hint = "; parse dates first, as with `pandas.to_datetime`" if times.dtype.kind in "OUST" else ""
            raise TypeError(f"the column {time!r} must hold numbers or dates; got {times.dtype}{hint}")
        if (bad := np.isnat(times) if times.dtype.kind in "mM" else np.isnan(times)).any():
            raise ValueError(f"the column {time!r} is missing in row {int(np.flatnonzero(bad)[0])}")
        order = np.lexsort((times, numbers))
        same = (np.diff(numbers[order]) == 0) & (times[order][1:] == times[order][:-1])
        if same.any():
            row = int(order[1:][same][0])
            of = "" if id is None else f" of {names[numbers[row]]!r}"
            hint = "; pass `id`, the column that tells series apart" if id is None else ""
            raise ValueError(f"the column {time!r} has {times[row]!s} twice{of}, in row {row}{hint}")
    return names, order, np.searchsorted(numbers[order], np.arange(len(names)))


def _check_spacing(name: str, times: np.ndarray, id: Any) -> None:
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
