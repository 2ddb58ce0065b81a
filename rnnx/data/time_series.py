"""Time series.

Dimensions: n_t targets, n_p and n_f further numbers per step, known until now and in advance; T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.inputs import host_array


@dataclass(frozen=True, eq=False)
class Series:
    """A time series to forecast, with what else is known.

    Parameters
    ----------
    targets : array, shape (T,) or (n_t, T)
        What is to be forecast.
    past : array, shape (T,) or (n_p, T), optional
        Numbers that are known until now, such as measurements.
    future : array, shape (T + more,) or (n_f, T + more), optional
        Numbers that are known in advance, such as holidays or planned prices, also for steps after the targets.
    static : array, shape (n_s,), optional
        Numbers that hold for the whole series.
    id : object, optional
        A name.
    times : array, shape (T + more,), optional
        The time of each step.

    Raises
    ------
    ValueError, TypeError
        If arrays do not hold numbers or do not match in length, or `past`, `future` or `static` hold NaN.

    See Also
    --------
    SeriesWindows, series_from_frame

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Series, SeriesWindows
    >>> sales, holiday = np.arange(20.0), np.zeros(23)
    >>> holiday[21] = 1  # known in advance, after the last sale
    >>> shop = Series(sales, future=holiday, id="Rome")
    >>> windows = SeriesWindows(shop, input_length=5, horizon=3)
    >>> windows.ahead()[2, 0]  # what the model sees of holidays: five steps of the past, three of the future
    array([0., 0., 0., 0., 0., 0., 1., 0.])
    """

    targets: np.ndarray
    past: np.ndarray | None = None
    future: np.ndarray | None = None
    static: np.ndarray | None = None
    id: Any = None
    times: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("targets", "past", "future", "static"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._checked(name, getattr(self, name)))
        steps = self.targets.shape[1]
        if self.past is not None and self.past.shape[1] != steps:
            raise ValueError(f"`past` must have the T = {steps} steps of `targets`; got {self.past.shape[1]}")
        if self.future is not None and self.future.shape[1] < steps:
            hint = f"; of shape {self.future.shape}, pass future.T" if len(self.future) >= steps else ""
            raise ValueError(
                f"`future` must have at least the T = {steps} steps of `targets`; got {self.future.shape[1]}{hint}"
            )
        if self.times is not None:
            times: Any = self.times
            times = times.to_numpy() if hasattr(times, "to_numpy") else np.asarray(times)
            if times.ndim != 1 or len(times) < steps:
                raise ValueError(f"`times` must have at least the T = {steps} steps of `targets`; got {times.shape}")
            object.__setattr__(self, "times", times)

    def _checked(self, name: str, values: Any) -> np.ndarray:
        array = host_array(name, values)
        array = array if array.dtype.kind == "f" else array.astype(float)
        if name != "static" and array.ndim == 1:
            array = array[None]
        if array.ndim != (1 if name == "static" else 2):
            axes = "(n_s,)" if name == "static" else "(T,) or (n, T)"
            raise ValueError(f"`{name}` must have shape {axes}; got {array.shape}")
        bad = np.isinf(array) if name == "targets" else ~np.isfinite(array)
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            of = "" if self.id is None else f" of the series {self.id!r}"
            raise ValueError(f"`{name}`{of} must be finite; got {array[place]} at index {place}")
        return array

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of targets, past, future and static numbers."""
        return tuple(0 if a is None else a.shape[0] for a in (self.targets, self.past, self.future, self.static))


def as_series(series: Any) -> list[Series]:
    """Return one series or many, given as such or as arrays, as a list."""
    many = series if isinstance(series, list | tuple) else [series]
    if not many:
        raise ValueError("`series` must hold at least one series")
    if isinstance(many[0], int | float):
        many = [many]
    return [one if isinstance(one, Series) else Series(one) for one in many]


def joined(arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray | None, np.ndarray]:
    """Join arrays along time; return where each begins."""
    given = [a for a in arrays if a is not None]
    if not given:
        return None, np.zeros(0, int)
    sizes = np.array([a.shape[1] for a in given])
    return np.concatenate(given, axis=1), np.cumsum(sizes) - sizes
