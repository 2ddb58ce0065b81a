"""An estimator that forecasts time series, with the conventions of sktime.

Dimensions: T steps, n_t targets, n_f numbers that are known in advance.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from rnnx import models
from rnnx._core.checks import integer, integer_vector, real
from rnnx._core.words import in_words_of_the_caller
from rnnx.analysis import forecast
from rnnx.data import Series, SeriesWindows
from rnnx.estimators.base import Estimator
from rnnx.estimators.series import WORDS, for_each, joined, known, read
from rnnx.estimators.times import Origin
from rnnx.losses import Loss, Quantile, as_loss
from rnnx.losses.quantiles import checked_levels


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
        "quantile", the default, of `quantiles`; "gaussian", "student_t" or "poisson" for a distribution, or another of
        `rnnx.models.SequenceRegressor`. "poisson" needs `season` = None.
    horizon : int, optional
        Steps to forecast; default: the largest of the `fh` that `fit` gets.
    input_length : int, optional
        Steps of the past that a forecast sees; default: twice the season or the horizon, whichever is longer.
    season : int or None
        Learn the difference from the seasonal naive forecast (1: from the last value); None: the values themselves.
        See `rnnx.data.SeriesWindows`, also for `stride` and `gaps`.
    quantiles : sequence of float
        What `predict_quantiles` forecasts by default and, with the loss "quantile", all that it can; there `predict`
        forecasts the one nearest to 0.5. Otherwise it forecasts the mean.
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
        series, self._origins = read(y, X)
        loss = self._loss()
        for one in series:
            loss.check_targets("y", one.targets)
        with in_words_of_the_caller(WORDS):
            windows = self._windows(series, fh)
            train, held = windows, None
            longest = max(one.targets.shape[1] for one in series)
            if count := self._held_out(longest):
                train, held = windows.split(max(count, windows.horizon))
            inputs, targets = train.scalers(shift=loss.shifts)
        options = self._options(seed) | {"loss": loss, "per_step": True, "bidirectional": self.bidirectional}
        options |= {"input_scaler": inputs, "target_scaler": targets}
        model = models.SequenceRegressor(windows.n_inputs, self.hidden_size, windows.n_targets, **options)
        with in_words_of_the_caller(WORDS):
            self._train(model, train, held, seed)
        self._data = windows
        return self

    def _loss(self) -> Loss:
        levels = checked_levels(self.quantiles)
        loss = Quantile(levels) if self.loss in (None, "quantile") else as_loss(self.loss, ("numbers",))
        if self.season is not None and not loss.shifts:
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
        for k, one in enumerate(series):
            if (steps := one.targets.shape[1]) < length and len(series) > 1:
                raise ValueError(f"`y[{k}]` must have at least `input_length` = {length} steps; got {steps}")
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
        series, origins = read(y, X, self._origins)
        with in_words_of_the_caller(WORDS):
            longer = [joined(a, b) for a, b in zip(self._data.series, series, strict=True)]
            data = self._with(longer)
        self._origins = [a.after(b) for a, b in zip(self._origins, origins, strict=True)]
        self._data = data
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
        return self._forecast(fh, X, (), Origin.point)

    def predict_quantiles(self, fh: Any = None, X: Any = None, alpha: Any = None) -> Any:
        """Return quantiles of the forecasts.

        Parameters
        ----------
        fh, X
            As for `predict`.
        alpha : float or sequence of float, optional
            Their levels; default: `quantiles`. A loss that is a likelihood has all, "quantile" those of `quantiles`.

        Returns
        -------
        array, shape (steps, quantiles) or (steps, n_t, quantiles); or a frame with the columns (name, quantile)
        """
        return self._forecast(fh, X, self._levels(alpha), Origin.quantiles)

    def predict_interval(self, fh: Any = None, X: Any = None, coverage: Any = 0.8) -> Any:
        """Return intervals that contain this part of the values, between two quantiles.

        Returns
        -------
        array, shape (steps, 2) or (steps, n_t, 2); or a frame with the columns (name, coverage, "lower" or "upper")
        """
        part = real("coverage", coverage, "(0, 1)")
        levels = self._levels([round((1 - part) / 2, 10), round((1 + part) / 2, 10)])
        return self._forecast(fh, X, levels, lambda origin, found, steps: origin.interval(found, steps, part))

    def _levels(self, alpha: Any) -> list[float]:
        """Return levels of quantiles that the model forecasts, in the order of the caller."""
        check_is_fitted(self)
        loss = self.model_.loss_function
        if alpha is None:
            alpha = loss.quantiles if isinstance(loss, Quantile) else self.quantiles
        levels = [real("alpha", q, "(0, 1)") for q in ([alpha] if np.ndim(alpha) == 0 else alpha)]
        loss.check_levels(sorted(set(levels)))
        return levels

    def _forecast(self, fh: Any, X: Any, levels: Sequence[float], shaped: Callable[..., Any]) -> Any:
        """Return the forecast, or quantiles of these levels, in the form of `y`."""
        check_is_fitted(self)
        steps = self.fh_ if fh is None else self._steps(fh, self._data.horizon)
        data = self._data
        with in_words_of_the_caller(WORDS):
            if X is not None:
                ends = for_each(X, self._origins[0].listed, len(data.series))
                for origin, end in zip(self._origins, ends, strict=True):
                    origin.check_index("X", end, ahead=True)
                need = data.horizon if self.bidirectional else int(steps.max())
                each = zip(data.series, self._origins, ends, strict=True)
                data = self._with([known(one, origin, end, need, data.horizon) for one, origin, end in each])
            found = forecast(self.model_, data, quantiles=sorted(set(levels)) or None)
        own = {name: found[str(name)][..., steps - 1] for name in levels or ("forecast",)}
        results = [
            shaped(origin, {name: values[:, k] for name, values in own.items()}, steps)
            for k, origin in enumerate(self._origins)
        ]
        return results[0] if len(results) == 1 and not self._origins[0].listed else results
