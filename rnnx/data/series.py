"""Windows over time series, for forecasting.

Dimensions: n_t targets, n_p and n_f further numbers per step, known until now and in advance; T steps, of which a
window has L of the past and H of the future.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core.checks import check_indices, choice, flag, integer, integer_vector
from rnnx.data.batches import Batch, Shuffled
from rnnx.data.scaling import Scaler
from rnnx.data.time_series import Series, as_series, joined


class SeriesWindows(Shuffled[Batch]):
    """Sliding windows over series, for a `SequenceRegressor` with `per_step` = True; batches copy what they need.

    The model reads the past of a window and then goes on through its future, where it sees what is known in advance.
    Its outputs there are the forecast, and only they count in the loss. Each step has `n_inputs` numbers: targets and
    past numbers (in the future: their last values), 1 in the past and 0 in the future, future numbers, and static ones.

    Parameters
    ----------
    series : Series, array (T,) or (n_t, T), or a list of these
        Those with fewer than input_length + horizon steps have no windows.
    input_length, horizon : int
        Steps of the past and of the future in a window.
    stride : int
        Steps from the start of a window to the start of the next.
    gaps : {"error", "hold"}
        What to do where a target is missing (NaN): raise ValueError, or give the model the last value before it. In the
        future of a window, a missing target is always ignored.
    season : int, optional
        The model learns the difference from the seasonal naive forecast, which repeats the last `season` steps (1: the
        last value), for series whose level drifts. It sees that forecast in the future, and the past relative to the
        mean of its last season. `restore` gives forecasts of its outputs.
    allow_none : bool
        Whether there may be no window, which is enough for `ahead`.

    Attributes
    ----------
    n_inputs, n_targets : int
        For the model.

    Raises
    ------
    ValueError, TypeError
        If there is no window, the series have different numbers of features, or targets are missing.

    See Also
    --------
    Series, rnnx.models.SequenceRegressor, rnnx.analysis.backtest

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import SeriesWindows
    >>> windows = SeriesWindows(np.arange(10.0), input_length=4, horizon=2)
    >>> len(windows), windows.gather([0]).inputs[0].tolist(), windows.gather([0]).targets.tolist()
    (5, [[0.0, 1.0, 2.0, 3.0, 3.0, 3.0]], [[[0.0, 0.0, 0.0, 0.0, 4.0, 5.0]]])
    """

    def __init__(
        self,
        series: Any,
        input_length: int,
        horizon: int,
        *,
        stride: int = 1,
        gaps: str = "error",
        season: int | None = None,
        allow_none: bool = False,
    ) -> None:
        self.input_length, self.horizon = integer("input_length", input_length), integer("horizon", horizon)
        self.stride = integer("stride", stride)
        self.season = None if season is None else integer("season", season, 1, self.input_length)
        self.gaps = choice("gaps", gaps, ("error", "hold"))
        self.series = as_series(series)
        sizes = self.series[0].sizes
        for one in self.series:
            if one.sizes != sizes:
                names = "targets, past, future and static numbers"
                raise ValueError(f"all `series` must have as many {names}, {sizes}; got {one.sizes}")
        self.n_targets, self.n_inputs = sizes[0], sum(sizes) + 1
        ends = np.array([one.targets.shape[1] for one in self.series])
        self._first = np.cumsum(ends) - ends  # step of each series in the joined arrays
        self._targets = np.concatenate([one.targets for one in self.series], axis=1)
        self._known = _held(self.series, self._targets, self._first, gaps)
        self._future, self._first_future = joined([one.future for one in self.series])
        statics = [one.static for one in self.series if one.static is not None]
        self._static = np.stack(statics, axis=1) if statics else None
        self._ends = ends
        self._between(np.zeros_like(ends), ends)
        if not flag("allow_none", allow_none) and not len(self):
            need = f"input_length + horizon = {self.input_length + self.horizon}"
            raise ValueError(f"`series` must have one of at least {need} steps; the longest has {ends.max()}")

    def _between(self, start: np.ndarray, stop: np.ndarray) -> None:
        """Use the windows whose futures lie between two steps of each series, and whose pasts are there."""
        first = np.maximum(start, self.input_length)  # of the future
        counts = np.maximum((stop - self.horizon - first) // self.stride + 1, 0)
        self._last = np.cumsum(counts)
        self._starts, self._before = first - self.input_length, self._last - counts

    def __len__(self) -> int:
        return int(self._last[-1])

    def split(self, validation_length: int, test_length: int | None = None) -> "tuple[SeriesWindows, ...]":
        """Hold out the last steps of each series: return windows whose futures end before them, and begin in them.

        No target of the second is in the first. Its pasts may reach back into the training part, as in practice. With
        `test_length` there is a third part, of the steps after those of the second.

        Raises
        ------
        ValueError
            If one of them has no window.
        """
        lengths = {"training": 0, "validation": integer("validation_length", validation_length)}
        lengths |= {} if test_length is None else {"test": integer("test_length", test_length)}
        sizes = [*lengths.values()]
        cuts = [np.maximum(self._ends - sum(sizes[k:]), 0) for k in range(1, len(sizes))]
        parts = []
        for name, start, stop in zip(lengths, [np.zeros_like(self._ends), *cuts], [*cuts, self._ends], strict=True):
            part = copy.copy(self)
            part._between(start, stop)
            if not len(part):
                given = " + ".join(f"`{k}_length` = {n}" for k, n in lengths.items() if n)
                raise ValueError(f"{given} leaves no window for {name}")
            parts.append(part)
        return tuple(parts)

    def places(self, chosen: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the series, and the first step of the future, of windows with these indices."""
        chosen = integer_vector(np, "cpu", "chosen", chosen)
        check_indices("chosen", chosen, "n", len(self))
        which = np.searchsorted(self._last, chosen, side="right")
        return which, self._starts[which] + (chosen - self._before[which]) * self.stride + self.input_length

    def gather(self, chosen: Any) -> Batch:
        """Build a batch from the windows with these indices."""
        which, now = self.places(chosen)
        inputs = self._inputs(which, now)
        steps = (self._first[which] + now)[:, None] + np.arange(self.horizon)
        values = self._targets[:, steps]
        known = np.isfinite(values).all(axis=0)
        shape = self.n_targets, len(which), self.input_length + self.horizon
        targets, weights = np.zeros(shape, values.dtype), np.zeros(shape[1:])
        if self.season is not None:
            values = values - self.naive(which, now, self.season)
        targets[:, :, self.input_length :] = np.where(known, values, 0)
        weights[:, self.input_length :] = known
        return Batch(inputs, targets, None, weights=weights)

    def _inputs(self, which: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Return inputs (n_inputs, m, L + H) of windows of these series whose futures begin at these steps."""
        steps = np.concatenate([np.arange(-self.input_length, 0), np.full(self.horizon, -1)])
        parts = [self._known[:, (self._first[which] + now)[:, None] + steps]]
        if self.season is not None:
            own, past = parts[0][: self.n_targets], self.input_length
            own[..., past:] = self.naive(which, now, self.season)
            own -= own[..., past - self.season : past].mean(axis=2, keepdims=True)
        shape = len(which), len(steps)
        parts.append(np.broadcast_to((np.arange(len(steps)) < self.input_length) * 1.0, (1, *shape)))
        if self._future is not None:
            ahead = np.arange(-self.input_length, self.horizon)
            parts.append(self._future[:, (self._first_future[which] + now)[:, None] + ahead])
        if self._static is not None:
            parts.append(np.broadcast_to(self._static[:, which, None], (len(self._static), *shape)))
        return np.concatenate(parts)

    def naive(self, which: np.ndarray, now: np.ndarray, season: int) -> np.ndarray:
        """Return seasonal naive forecasts (n_targets, m, horizon) of these series, from these steps on."""
        steps = np.arange(self.horizon) % season - season
        return self._known[: self.n_targets, (self._first[which] + now)[:, None] + steps]

    def restore(self, outputs: np.ndarray, chosen: Any = None) -> np.ndarray:
        """Return the forecasts (n_targets, m, horizon) that the outputs (n_targets, m, L + H) of a model stand for.

        Parameters
        ----------
        outputs : array
            For `ahead`, or for the windows with the indices `chosen`.
        chosen : array of int, shape (m,), optional
        """
        future = outputs[..., -self.horizon :]
        if self.season is None:
            return future
        which, now = (np.arange(len(self.series)), self._ends) if chosen is None else self.places(chosen)
        return future + self.naive(which, now, self.season)

    def ahead(self) -> np.ndarray:
        """Return inputs (n_inputs, n, L + H) to forecast what comes after the end of each of the n series.

        The forecast is ``windows.restore(model.predict(windows.ahead()))``.

        Raises
        ------
        ValueError
            If a series is shorter than `input_length`, or its `future` ends before the horizon.
        """
        for one, end in zip(self.series, self._ends, strict=True):
            of = "a series" if one.id is None else f"the series {one.id!r}"
            if end < self.input_length:
                raise ValueError(f"{of} must have at least `input_length` = {self.input_length} steps; got {end}")
            if one.future is not None and one.future.shape[1] < end + self.horizon:
                more = one.future.shape[1] - end
                raise ValueError(f"`future` of {of} must go on for `horizon` = {self.horizon} steps; got {more}")
        return self._inputs(np.arange(len(self.series)), self._ends)

    def scalers(self, *, shift: bool = True) -> tuple[Scaler, Scaler]:
        """Return scalers of the inputs and the targets, from the steps that these windows may see.

        Those of numbers that are known in advance are from all steps.

        `shift` is that of `Scaler.fit` for the targets.
        """
        counts = np.diff(self._last, prepend=0)
        stops = self._starts + self.input_length + (counts - 1) * self.stride + self.horizon
        used = [np.arange(f, f + n) for f, n, k in zip(self._first, stops, counts, strict=True) if k]
        steps = np.concatenate(used)
        parts = [Scaler.fit(self._known[:, None, steps]), Scaler((0.0,), (1.0,))]
        parts += [] if self._future is None else [Scaler.fit(self._future[:, None])]
        parts += [] if self._static is None else [Scaler.fit(self._static)]
        targets = Scaler.fit(self._targets[:, None, steps], shift=shift)
        if self.season is not None:
            batch, n = self.gather(np.unique(np.linspace(0, len(self) - 1, 1000).astype(int))), self.n_targets
            known = np.where(batch.weights > 0, batch.targets, np.nan)
            targets, levels = Scaler.fit(known, shift=shift), Scaler.fit(batch.inputs[:n])
            parts[0] = Scaler(levels.mean + parts[0].mean[n:], levels.scale + parts[0].scale[n:])
        inputs = Scaler(tuple(m for p in parts for m in p.mean), tuple(s for p in parts for s in p.scale))
        return inputs, targets

    def extremes(self) -> Batch:
        """Return one window, for checks; the values of all have been checked."""
        return self.gather([0])


def _held(series: Sequence[Series], targets: np.ndarray, firsts: np.ndarray, gaps: str) -> np.ndarray:
    """Return targets and past numbers of all series, with the last value where a target is missing."""
    missing = np.isnan(targets)
    if missing.any():
        place = int(np.flatnonzero(missing.any(axis=0))[0])
        which = int(np.searchsorted(firsts, place, side="right")) - 1
        own = (
            f"targets of series {which}" if series[which].id is None else f"targets of the series {series[which].id!r}"
        )
        step, times = place - firsts[which], series[which].times
        where = f"{own} hold NaN at step {step}" + ("" if times is None else f", {times[step]}")
        if gaps == "error":
            raise ValueError(f"{where}; pass gaps='hold' to give the model the last value before it")
        if missing[:, firsts].any():
            raise ValueError(f"{where}: there is no value before it; drop the first steps")
        steps = np.where(missing, 0, np.arange(targets.shape[1]))
        targets = np.take_along_axis(targets, np.maximum.accumulate(steps, axis=1), axis=1)
    past, _ = joined([one.past for one in series])
    return targets if past is None else np.concatenate([targets, past])
