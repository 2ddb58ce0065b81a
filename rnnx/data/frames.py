"""Examples and series from data frames of pandas, polars or any library with such columns; none is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.checks import flag
from rnnx.data.columns import check_spacing, column, grouped, listed_names, numbers_of, times_of
from rnnx.data.examples import Examples
from rnnx.data.labels import encode_labels
from rnnx.data.time_series import Series


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

    See Also
    --------
    sequences_from_frame, sequences_from_wide_frame, Examples

    Examples
    --------
    >>> from rnnx.data import sequences_from_frame
    >>> table = {"who": ["ann", "ann", "bob"], "x": [1.0, 2.0, 3.0], "y": [0.1, 0.2, 0.3]}
    >>> sequences = sequences_from_frame(table, id="who", inputs=["x"], target=["y"], per_step=True)
    >>> sequences.ids, sequences.lengths.tolist()
    (['ann', 'bob'], [2, 1])
    >>> sequences.examples().targets.shape  # (n_y, n, T)
    (1, 2, 2)
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

    See Also
    --------
    sequences_from_wide_frame, series_from_frame, read_table

    Examples
    --------
    >>> from rnnx.data import sequences_from_frame
    >>> table = {"who": ["a", "a", "b"], "x": [1.0, 2.0, 3.0], "label": ["run", "run", "walk"]}
    >>> found = sequences_from_frame(table, id="who", inputs=["x"], target="label")
    >>> found.inputs.tolist(), found.lengths.tolist(), found.targets.tolist(), found.classes
    ([[[1.0, 2.0], [3.0, 0.0]]], [2, 1], [0, 1], ['run', 'walk'])
    """
    per_step = flag("per_step", per_step)
    ids, order, starts = grouped(frame, id, time)
    lengths = np.diff(np.append(starts, len(order)))
    steps = np.arange(lengths.max(initial=0))
    inside = steps < lengths[:, None]
    rows = order[np.where(inside, starts[:, None] + steps, 0)]  # (n, T)
    features = np.stack([numbers_of(frame, name) for name in listed_names("inputs", inputs)])
    sequences = np.where(inside, features[:, rows], 0)
    targets = None
    if target is not None:
        of_rows, classes = targets_of(frame, target, classes)
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

    See Also
    --------
    Series, SeriesWindows, series_from_wide_frame

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import series_from_frame
    >>> days = np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]")
    >>> table = {"shop": ["Rome"] * 3 + ["Oslo"] * 3, "day": np.tile(days, 2)}
    >>> table |= {"sold": [3.0, 4.0, 5.0, 1.0, 2.0, np.nan], "holiday": [0, 1, 0, 0, 1, 0]}
    >>> rome, oslo = series_from_frame(table, id="shop", time="day", target="sold", future=["holiday"])
    >>> oslo.id, oslo.targets.tolist(), oslo.future.tolist()  # its last day is the future
    ('Oslo', [[1.0, 2.0]], [[0.0, 1.0, 0.0]])
    """
    allow_gaps = flag("allow_gaps", allow_gaps)
    hint = "; pass `id`, the column that tells series apart" if id is None else ""
    ids, order, starts = grouped(frame, id, time, hint)
    numbers = {"target": np.stack([numbers_of(frame, name, missing=True) for name in listed_names("target", target)])}
    for kind, names in {"past": past, "future": future, "static": static}.items():
        if len(names):
            columns = [numbers_of(frame, name, missing=kind == "past") for name in listed_names(kind, names)]
            numbers[kind] = np.stack(columns)
    times, series = times_of(frame, time), []
    for name, rows in zip(ids, np.split(order, starts[1:]), strict=True):
        own = {kind: a[:, rows] for kind, a in numbers.items()}
        if not allow_gaps:
            check_spacing(time, times[rows], name)
        known = np.flatnonzero(~np.isnan(own["target"]).all(axis=0))
        stop = int(known[-1]) + 1 if known.size else 0
        if not stop:
            raise ValueError(f"`target` of {name!r} must hold numbers; all are missing")
        statics = own.get("static")
        if statics is not None and (statics != statics[:, :1]).any():
            raise ValueError(f"`static` columns must be constant in each series; those of {name!r} are not")
        past_of = own["past"][:, :stop] if "past" in own else None
        fixed = None if statics is None else statics[:, 0]
        series.append(Series(own["target"][:, :stop], past_of, own.get("future"), fixed, name, times[rows]))
    return series


def targets_of(frame: Any, target: Any, classes: Any) -> tuple[np.ndarray, Any]:
    """Return the targets of all rows, classes (rows,) or numbers (n_y, rows), and the classes."""
    if isinstance(target, str | int):
        values = column(frame, target)
        if values.dtype.kind != "f" or classes is not None:
            try:
                return encode_labels(values, classes)
            except (TypeError, ValueError) as error:
                raise type(error)(f"the column {target!r}: {error}") from None
    return np.stack([numbers_of(frame, name) for name in listed_names("target", target)]), None
