"""What a series was before it became an array, and forecasts in the same form: arrays, or pandas with its index."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx.data import Series


@dataclass(frozen=True, eq=False)
class Origin:
    """The form of a series.

    Attributes
    ----------
    steps : int
        How many steps it has.
    index : pandas.Index or None
    names : list or None
        Of the columns of a frame, or the name of a series.
    flat : bool
        Whether it has one axis.
    listed : bool
        Whether it was in a list.
    future : list or None
        Names of the columns of what is known in advance, if it is a frame.
    """

    steps: int
    index: Any
    names: list[Any] | None
    flat: bool
    listed: bool
    future: list[Any] | None = None

    def after(self, more: "Origin") -> "Origin":
        """Return the form of this series with another one after it."""
        if (self.index is None) != (more.index is None):
            raise TypeError("`y` must have an index if, and only if, that of `fit` had one")
        if self.index is None:
            return replace(self, steps=self.steps + more.steps)
        if not more.steps:
            return self
        if not more.index[0] > self.index[-1]:
            raise ValueError(f"`y` must begin after {self.index[-1]}, the last step that is known; got {more.index[0]}")
        for expected, found in zip(later(self.index, np.arange(1, more.steps + 1)), more.index, strict=True):
            if found != expected:
                raise ValueError(f"`y` must go on at {expected}; got {found}")
        return replace(self, steps=self.steps + more.steps, index=self.index.append(more.index))

    def check_index(self, name: str, values: Any, *, ahead: bool) -> None:
        """Raise unless an index of dates, if both have one, is that of the series, or with `ahead` goes on after it."""
        own = getattr(values, "index", None)
        if own is None or not (_is_of_dates(self.index) and _is_of_dates(own)) or not len(own):
            return
        expected = later(self.index, np.arange(1, len(own) + 1)) if ahead else self.index
        same = [a == b for a, b in zip(own, expected, strict=False)]
        if not all(same):
            place = same.index(False)
            raise ValueError(f"the index of `{name}` must be {expected[place]} in row {place}; got {own[place]}")

    def point(self, values: dict[Any, np.ndarray], steps: np.ndarray) -> Any:
        """Return one forecast, in the form of the series."""
        (found,) = values.values()
        if self.index is None:
            return found[0] if self.flat else found.T
        import pandas

        index = later(self.index, steps)
        if self.flat:
            return pandas.Series(found[0], index, name=(self.names or [None])[0])
        return pandas.DataFrame(found.T, index, columns=self.names)

    def quantiles(self, values: dict[Any, np.ndarray], steps: np.ndarray) -> Any:
        """Return several forecasts by their names, in the last axis or in columns."""
        return self._columns(values, steps, [(q,) for q in values])

    def interval(self, values: dict[Any, np.ndarray], steps: np.ndarray, coverage: float) -> Any:
        """Return a lower and an upper forecast."""
        return self._columns(values, steps, [(coverage, "lower"), (coverage, "upper")])

    def _columns(self, values: dict[Any, np.ndarray], steps: np.ndarray, labels: list[tuple[Any, ...]]) -> Any:
        stacked = np.stack([*values.values()], axis=-1)  # (n_t, steps, forecasts)
        if self.index is None:
            return stacked[0] if self.flat else stacked.transpose(1, 0, 2)
        import pandas

        names = [0 if name is None else name for name in self.names or [0]]
        columns = pandas.MultiIndex.from_tuples([(name, *label) for name in names for label in labels])
        table = stacked.transpose(1, 0, 2).reshape(len(steps), -1)
        return pandas.DataFrame(table, later(self.index, steps), columns)


def origin_of(y: Any, listed: bool, *, goes_on: bool = False) -> Origin:
    """Return the form of a series: an array (T,) or (T, n), a `Series`, or a series or a frame of pandas.

    One that goes on from another need not be long enough to tell the next step of its index.
    """
    if isinstance(y, Series):
        n, steps = y.targets.shape
        return Origin(steps, None, None, n == 1, listed)
    if not (hasattr(y, "index") and hasattr(y, "iloc")):
        shape = np.shape(y)
        return Origin(shape[0] if shape else 0, None, None, len(shape) < 2, listed)
    if not _is_of_dates(y.index) and not _is_of_numbers(y.index):
        raise TypeError(f"the index of `y` must hold dates, periods or numbers; got {y.index.dtype}")
    if not y.index.is_unique:
        raise ValueError(f"the index of `y` has {y.index[y.index.duplicated()][0]} twice")
    if not y.index.is_monotonic_increasing:
        raise ValueError("the index of `y` must increase: pass y.sort_index()")
    flat = not hasattr(y, "columns")
    if not goes_on:
        later(y.index, np.ones(1, int))  # raises if the next step is not known
    return Origin(len(y), y.index, [y.name] if flat else [*y.columns], flat, listed)


def _is_of_dates(index: Any) -> bool:
    """Return whether this is an index of pandas of dates or periods."""
    if not hasattr(index, "dtype"):
        return False
    import pandas

    return isinstance(index, pandas.DatetimeIndex | pandas.PeriodIndex)


def _is_of_numbers(index: Any) -> bool:
    import pandas

    return bool(pandas.api.types.is_numeric_dtype(index.dtype))


def later(index: Any, steps: np.ndarray) -> Any:
    """Return an index of pandas for these steps after its last one, from 1."""
    import pandas

    if isinstance(index, pandas.PeriodIndex):
        if (np.diff(index.asi8) != index.freq.n).any():
            raise ValueError("the index of `y` must be evenly spaced: add the missing steps")
        return pandas.PeriodIndex([index[-1] + int(k) for k in steps])
    if isinstance(index, pandas.DatetimeIndex):
        frequency = index.freq or (pandas.infer_freq(index) if len(index) > 2 else None)
        if frequency is None:
            gaps = np.diff(index.asi8)
            odd = int(np.argmax(gaps != np.median(gaps)))
            found = f"{index[odd + 1]} comes after {index[odd]}" if len(gaps) > 1 else f"it holds {len(index)} dates"
            raise ValueError(
                f"the index of `y` must have a frequency: pass y.asfreq(...), such as y.asfreq('D'); {found}"
            )
        return pandas.date_range(index[-1], periods=int(steps.max()) + 1, freq=frequency)[steps]
    gaps = np.diff(index.to_numpy())
    if len(gaps) and not np.allclose(gaps, gaps[0]):
        raise ValueError("the index of `y` must be evenly spaced: add the missing steps")
    return pandas.Index(index[-1] + steps * (gaps[0] if len(gaps) else 1))
