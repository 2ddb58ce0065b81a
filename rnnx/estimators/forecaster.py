"""An estimator that forecasts time series, with the conventions of sktime.

Dimensions: T steps, n_t targets, n_f numbers that are known in advance.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from rnnx import models
from rnnx._core.checks import integer, integer_vector, real
from rnnx.analysis import forecast
from rnnx.data import Series, SeriesWindows
from rnnx.estimators.base import Estimator
from rnnx.estimators.times import Origin, origin_of
from rnnx.losses import Loss, Quantile, as_loss


@dataclass(eq=False, repr=False)
class Forecaster(Estimator):
    """Forecasts time series.

    Parameters
    ----------
    hidden_size, num_layers, cell, bidirectional, dropout, optimizer, learning_rate, epochs, batch_size, clip_norm
        As for `SequenceClassifier`.
    patience, validation_fraction
        Hold out the last steps of each series, as `SequenceClassifier` holds out examples.
    dtype, device, random_state, progress_bar
        As for `SequenceClassifier`.
    loss
        As for `rnnx.models.SequenceRegressor`; default: that of `quantiles`.
    horizon : int, optional
        Steps to forecast; default: the largest of the `fh` that `fit` gets.
    input_length : int, optional
        Steps of the past that a forecast sees; default: twice the season or the horizon, whichever is longer.
    season : int or None
        Learn the difference from the seasonal naive forecast (1: from the last value); None: the values themselves.
        See `rnnx.data.SeriesWindows`, also for `stride` and `gaps`.
    quantiles : sequence of float
        What `predict_quantiles` forecasts, and `predict` the one nearest to 0.5.
    stride : int
    gaps : {"error", "hold"}

    Attributes
    ----------
    model_ : rnnx.models.SequenceRegressor
    fh_ : array of int
        The steps that `predict` forecasts if it gets no `fh`.
    history_ : list of dict
        The losses after each epoch.

    See Also
    --------
    SequenceRegressor, rnnx.data.SeriesWindows, rnnx.analysis.backtest

    Notes
    -----
    ``y`` is a series, (T,), or several at the same times, (T, n_t), as an array or of pandas; or a list of these, or of
    `rnnx.data.Series`, with a forecast for each. ``X`` holds numbers that are known in advance, (T, n_f), which go on
    in `predict`. Forecasts of pandas have its index. sktime itself is not needed.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.estimators import Forecaster
    >>> y = np.sin(np.arange(80) * np.pi / 4)
    >>> model = Forecaster(8, season=8, epochs=3, random_state=0).fit(y, fh=[1, 2, 3])
    >>> model.predict().shape, model.predict_quantiles(fh=2).shape
    ((3,), (1, 3))
    """

    _: KW_ONLY
    horizon: int | None = None
    input_length: int | None = None
    season: int | None = 1
    quantiles: Sequence[float] = (0.1, 0.5, 0.9)
    stride: int = 1
    gaps: str = "error"

    def fit(self, y: Any, X: Any = None, fh: Any = None) -> Self:
        """Train a new model.

        Parameters
        ----------
        y, X
            See the class.
        fh : int or sequence of int, optional
            The steps after the last one to forecast, from 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any work, if a parameter or an argument is wrong.
        """
        seed = self._seed()
        series, self._origins = _read(y, X)
        loss = self._loss()
        with _in_words_of_the_caller():
            windows = self._windows(series, fh)
            train, held = windows, None
            longest = max(one.targets.shape[1] for one in series)
            if count := self._held_out(longest):
                train, held = windows.split(max(count, windows.horizon))
        inputs, targets = train.scalers()
        options = self._options(seed) | {"loss": loss, "per_step": True, "bidirectional": self.bidirectional}
        options |= {"input_scaler": inputs} | ({"target_scaler": targets} if loss.least == -np.inf else {})
        model = models.SequenceRegressor(windows.n_inputs, self.hidden_size, windows.n_targets, **options)
        self._train(model, train, held, seed)
        self._data = windows
        return self

    def _loss(self) -> Loss:
        loss = Quantile(tuple(self.quantiles)) if self.loss is None else as_loss(self.loss, ("numbers",))
        if self.season is not None and loss.least > -np.inf:
            raise ValueError(f"`season` must be None for the loss {loss!r}, because differences may be negative")
        return loss

    def _windows(self, series: list[Series], fh: Any) -> SeriesWindows:
        """Return the windows of all series, and set `fh_`."""
        if fh is None and self.horizon is None:
            raise ValueError("`fit` needs `fh`, the steps to forecast, or the parameter `horizon`")
        horizon = None if self.horizon is None else integer("horizon", self.horizon)
        self.fh_ = np.arange(1, (horizon or 0) + 1) if fh is None else self._steps(fh, horizon)
        horizon = horizon or int(self.fh_.max())
        length, season = self.input_length, self.season
        if length is None:
            most = max(one.targets.shape[1] for one in series) - horizon
            length = max(1, min(2 * max(horizon, season or 1), most))
        return SeriesWindows(series, length, horizon, stride=self.stride, gaps=self.gaps, season=season)

    def _steps(self, fh: Any, horizon: int | None) -> np.ndarray:
        """Return the steps of a forecasting horizon as integers from 1."""
        if hasattr(fh, "to_relative"):  # sktime's ForecastingHorizon
            fh = fh.to_relative(self.cutoff).to_numpy()
        steps: np.ndarray = integer_vector(np, "cpu", "fh", [fh] if np.ndim(fh) == 0 else fh)
        if not steps.size or steps.min() < 1 or (horizon and steps.max() > horizon):
            most = f" to the horizon, {horizon}" if horizon else ""
            raise ValueError(f"`fh` must be steps from 1{most}; got {steps.tolist()!r:.60}")
        return steps

    @property
    def cutoff(self) -> Any:
        """The time of the last value of `y`, if it has an index, or how many values there are."""
        found = [origin.index[-1] if origin.index is not None else origin.steps for origin in self._origins]
        return found[0] if len(found) == 1 else found

    def update(self, y: Any, X: Any = None) -> Self:
        """Add values after those that the model knows, so that forecasts begin later; it is not trained further."""
        check_is_fitted(self)
        series, origins = _read(y, X)
        if len(series) != len(self._origins):
            raise ValueError(f"`y` must have the {len(self._origins)} series of `fit`; got {len(series)}")
        with _in_words_of_the_caller():
            joined = [_joined(a, b) for a, b in zip(self._data.series, series, strict=True)]
            self._data = self._with(joined)
        self._origins = [a.after(b) for a, b in zip(self._origins, origins, strict=True)]
        return self

    def _with(self, series: list[Series]) -> SeriesWindows:
        at = self._data
        options: dict[str, Any] = {"stride": at.stride, "gaps": at.gaps, "season": at.season}
        return SeriesWindows(series, at.input_length, at.horizon, allow_none=True, **options)

    def predict(self, fh: Any = None, X: Any = None) -> Any:
        """Return forecasts, with the shape (and the index) of `y`, but the steps `fh`.

        Parameters
        ----------
        fh : int or sequence of int, optional
            Default: that of `fit`.
        X : array or frame, shape (at least the largest of `fh`, n_f), optional
            The numbers that are known in advance, after the last step of `y`.
        """
        return self._forecast(fh, X, ["forecast"], Origin.point)

    def predict_quantiles(self, fh: Any = None, X: Any = None, alpha: Any = None) -> Any:
        """Return quantiles of the forecasts, by default all `quantiles`.

        Returns
        -------
        array, shape (steps, quantiles) or (steps, n_t, quantiles); or a frame with the columns (name, quantile)
        """
        return self._forecast(fh, X, self._levels(alpha), Origin.quantiles)

    def predict_interval(self, fh: Any = None, X: Any = None, coverage: Any = 0.8) -> Any:
        """Return intervals that contain this part of the values, between two of `quantiles`.

        Returns
        -------
        array, shape (steps, 2) or (steps, n_t, 2); or a frame with the columns (name, coverage, "lower" or "upper")
        """
        part = real("coverage", coverage, "(0, 1)")
        levels = self._levels([round((1 - part) / 2, 10), round((1 + part) / 2, 10)])
        return self._forecast(fh, X, levels, lambda origin, found, steps: origin.interval(found, steps, part))

    def _levels(self, alpha: Any) -> list[float]:
        """Return levels of quantiles that the model forecasts; None means all of them."""
        check_is_fitted(self)
        loss = self.model_.loss_function
        known = loss.quantiles if isinstance(loss, Quantile) else ()
        if not known:
            raise ValueError(f"the loss {loss!r} forecasts no quantiles: leave `loss` None, and set `quantiles`")
        levels = [*known] if alpha is None else [alpha] if np.ndim(alpha) == 0 else [*alpha]
        missing = [q for q in levels if q not in known]
        if missing or not levels:
            raise ValueError(f"the model forecasts the quantiles {[*known]}; got {missing or 'none'}: set `quantiles`")
        return levels

    def _forecast(self, fh: Any, X: Any, names: Sequence[Any], shaped: Callable[..., Any]) -> Any:
        """Return these of the forecasts that `rnnx.analysis.forecast` names, in the form of `y`."""
        check_is_fitted(self)
        steps = self.fh_ if fh is None else self._steps(fh, self._data.horizon)
        data = self._data
        with _in_words_of_the_caller():
            if X is not None:
                ends = _for_each(X, self._origins[0].listed, len(data.series))
                need = data.horizon if self.bidirectional else int(steps.max())
                data = self._with([_known(a, b, need, data.horizon) for a, b in zip(data.series, ends, strict=True)])
            found = forecast(self.model_, data)
        own = {name: found[str(name)][..., steps - 1] for name in names}
        results = [
            shaped(origin, {name: values[:, k] for name, values in own.items()}, steps)
            for k, origin in enumerate(self._origins)
        ]
        return results[0] if len(results) == 1 and not self._origins[0].listed else results


@contextmanager
def _in_words_of_the_caller() -> Iterator[None]:
    """Name the arguments as estimators do."""
    try:
        yield
    except (TypeError, ValueError) as error:
        words = str(error)
        for theirs, ours in (("`targets`", "`y`"), ("`series`", "`y`"), ("targets of series", "the values of series")):
            words = words.replace(theirs, ours)
        raise type(error)(words.replace("`future`", "`X`")) from None


def _for_each(X: Any, listed: bool, n: int) -> list[Any]:
    """Return what is known in advance for each of n series; it is a list if `y` is one."""
    if not listed or X is None:
        return [X] * n
    if not isinstance(X, list | tuple) or len(X) != n:
        raise ValueError(f"`X` must be a list as long as `y`, {n}")
    return [*X]


def _read(y: Any, X: Any) -> tuple[list[Series], list[Origin]]:
    """Return the series of `y`, with what is known in advance, and what they were."""
    listed = isinstance(y, list | tuple) and len(y) > 0 and not np.isscalar(y[0])
    many = [*y] if listed else [y]
    series, origins = [], []
    for one, future in zip(many, _for_each(X, listed, len(many)), strict=True):
        origins.append(origin_of(one, listed))
        with _in_words_of_the_caller():
            if isinstance(one, Series):
                series.append(one)
            else:
                series.append(Series(_rows(one), future=None if future is None else _rows(future)))
    return series, origins


def _rows(values: Any) -> Any:
    """Return numbers with the time last."""
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    return array.T


def _known(series: Series, X: Any, need: int, horizon: int) -> Series:
    """Return a series with what is known in advance for `need` of the steps of the horizon, and repeated after them."""
    if series.future is None:
        raise ValueError("`X` must be given to `fit`, too")
    more = np.atleast_2d(_rows(X))
    if len(more) != len(series.future):
        raise ValueError(f"`X` must have {len(series.future)} columns, as in `fit`; got {len(more)}")
    if more.shape[1] < need:
        raise ValueError(f"`X` must have the {need} steps after the last one of `y`; got {more.shape[1]}")
    more = np.pad(more, ((0, 0), (0, max(0, horizon - more.shape[1]))), mode="edge")
    return replace(series, future=np.concatenate([series.future[:, : series.targets.shape[1]], more], axis=1))


def _joined(series: Series, after: Series) -> Series:
    """Return a series with the values of another one after it."""
    parts: dict[str, Any] = {}
    end = series.targets.shape[1]
    for name in ("targets", "past", "future"):
        first, second = getattr(series, name), getattr(after, name)
        if (first is None) != (second is None) or (first is not None and len(first) != len(second)):
            raise ValueError(f"`{name}` must have as many numbers per step as in `fit`")
        parts[name] = None if first is None else np.concatenate([first[:, :end], second], axis=1)
    return Series(**parts, static=series.static, id=series.id)
