"""Forecasts of a model in the units of its series, and a backtest against the seasonal naive forecast.

Dimensions: n_t targets, m windows (or series), H steps of the horizon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import integer
from rnnx.data import SeriesWindows
from rnnx.losses import Quantile
from rnnx.metrics import coverage, mean_absolute_error, root_mean_squared_error

_BATCH = 256  # windows in memory at once


def forecast(model: Any, windows: SeriesWindows, chosen: Any = None, *, quantiles: Any = None) -> dict[str, np.ndarray]:
    """Return forecasts in raw units.

    Parameters
    ----------
    model : SequenceRegressor
        Trained on such windows.
    windows : SeriesWindows
    chosen : array of int, shape (m,), optional
        Windows whose futures to forecast; default: what comes after the end of each series.
    quantiles : sequence of float, optional
        As for `SequenceRegressor.predict_quantiles`; default: those that a model of quantiles was trained for, of
        others none.

    Returns
    -------
    dict of str to array, shape (n_t, m, H)
        "forecast" and the quantiles: "0.1", "0.5", ...

    See Also
    --------
    backtest, rnnx.data.SeriesWindows, rnnx.plots.forecasts

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.analysis import forecast
    >>> from rnnx.data import SeriesWindows
    >>> from rnnx.models import SequenceRegressor
    >>> windows = SeriesWindows(np.sin(np.arange(60.0)), input_length=8, horizon=3)
    >>> model = SequenceRegressor(windows.n_inputs, 8, windows.n_targets, per_step=True, loss="quantile", rng=0)
    >>> {name: values.shape for name, values in forecast(model, windows).items()}
    {'forecast': (1, 1, 3), '0.1': (1, 1, 3), '0.5': (1, 1, 3), '0.9': (1, 1, 3)}
    """
    loss = model.loss_function
    if quantiles is None:
        levels = loss.quantiles if isinstance(loss, Quantile) else ()
    else:
        levels = loss.check_levels(quantiles)
    if chosen is None:
        return _in_units(model, windows, windows.ahead(), None, levels)
    if not len(chosen):
        raise ValueError("`chosen` must hold the index of at least one window")
    parts = [chosen[k : k + _BATCH] for k in range(0, len(chosen), _BATCH)]
    found = [_in_units(model, windows, windows.gather(part).inputs, part, levels) for part in parts]
    return {name: np.concatenate([one[name] for one in found], axis=1) for name in found[0]}


def _in_units(
    model: Any, windows: SeriesWindows, inputs: np.ndarray, chosen: Any, levels: tuple[float, ...]
) -> dict[str, np.ndarray]:
    if levels:
        loss, said = model.loss_function, model.predict_distribution(inputs)
        outputs = {"forecast": said[loss.outputs[loss.point]], **{str(q): loss.quantile(said, q) for q in levels}}
    else:
        outputs = {"forecast": model.predict(inputs)}
    return {name: windows.restore(ns.to_host(z), chosen) for name, z in outputs.items()}


@dataclass(frozen=True, eq=False)
class Backtest:
    """Forecasts of steps that are known.

    Attributes
    ----------
    series, starts : array of int, shape (m,)
        Which series, and the first step of each forecast.
    actual, naive : array, shape (n_t, m, H)
        What came, NaN where it is missing; and the seasonal naive forecast.
    forecasts : dict of str to array
        As `forecast` returns them.
    scores : dict of str to dict of str to float
        "MAE", "RMSE" and "MASE" of "model" and of "seasonal naive". MASE is the absolute error as a multiple of that of
        the naive forecast of one step before the first of these forecasts; NaN if a series did not change then.
    coverage : float or None
        The part of the values between the lowest and the highest quantile.

    See Also
    --------
    backtest, forecast

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.analysis import backtest
    >>> from rnnx.data import SeriesWindows
    >>> from rnnx.models import SequenceRegressor
    >>> windows = SeriesWindows(np.arange(20.0) ** 2, input_length=6, horizon=2, stride=4)
    >>> model = SequenceRegressor(windows.n_inputs, 8, windows.n_targets, per_step=True, rng=0)
    >>> result = backtest(model, windows)
    >>> result.starts.tolist(), result.actual.shape  # four windows; (n_t, m, H)
    ([6, 10, 14, 18], (1, 4, 2))
    >>> result.actual[0, 0].tolist(), result.naive[0, 0].tolist()  # the naive forecast repeats 5 ** 2
    ([36.0, 49.0], [25.0, 25.0])
    """

    series: np.ndarray
    starts: np.ndarray
    actual: np.ndarray
    naive: np.ndarray
    forecasts: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, float]]
    coverage: float | None


def backtest(model: Any, windows: SeriesWindows, *, season: int = 1, quantiles: Any = None) -> Backtest:
    """Forecast the futures of all windows, such as those that `SeriesWindows.split` held out.

    Parameters
    ----------
    model : SequenceRegressor
    windows : SeriesWindows
    season : int
        Of the seasonal naive forecast, which repeats as many last values.
    quantiles : sequence of float, optional
        As for `forecast`.

    See Also
    --------
    forecast, Backtest, rnnx.data.SeriesWindows, rnnx.plots.forecasts

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.analysis import backtest
    >>> from rnnx.data import SeriesWindows
    >>> from rnnx.models import SequenceRegressor
    >>> windows = SeriesWindows(np.tile([1.0, 5.0, 2.0, 4.0], 15), input_length=8, horizon=4)
    >>> train, test = windows.split(8)
    >>> untrained = SequenceRegressor(windows.n_inputs, 8, windows.n_targets, per_step=True, rng=0)
    >>> scores = backtest(untrained, test, season=4).scores
    >>> scores["seasonal naive"]["MAE"], scores["model"]["MAE"] > 1  # always look at the naive forecast
    (0.0, True)
    """
    season = integer("season", season, 1, windows.input_length)
    chosen = np.arange(len(windows))
    series, starts = windows.places(chosen)
    naive = windows.naive(series, starts, season)
    found = forecast(model, windows, chosen, quantiles=quantiles)
    actual = np.stack(
        [
            windows.series[k].targets[:, now : now + windows.horizon]
            for k, now in zip(series.tolist(), starts.tolist(), strict=True)
        ],
        axis=1,
    )
    known = np.isfinite(actual).astype(float)
    values = np.nan_to_num(actual)
    scale = _scales(windows, series, starts, season)[:, :, None]
    changed = np.isfinite(scale).all()
    scores = {
        name: {
            "MAE": mean_absolute_error(values, one, weights=known),
            "RMSE": root_mean_squared_error(values, one, weights=known),
            "MASE": mean_absolute_error(values / scale, one / scale, weights=known) if changed else np.nan,
        }
        for name, one in {"model": found["forecast"], "seasonal naive": naive}.items()
    }
    levels = sorted((name for name in found if name != "forecast"), key=float)
    inside = coverage(values, found[levels[0]], found[levels[-1]], weights=known) if len(levels) > 1 else None
    return Backtest(series, starts, actual, naive, found, scores, inside)


def _scales(windows: SeriesWindows, series: np.ndarray, starts: np.ndarray, season: int) -> np.ndarray:
    """Return the mean change over a season before the first forecast of the series of each window, (n_t, m)."""
    scales = {}
    for k in np.unique(series).tolist():
        past = windows.series[k].targets[:, : starts[series == k].min()]
        changes = abs(past[:, season:] - past[:, :-season])
        known = np.isfinite(changes)
        mean = np.where(known, changes, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        scales[k] = np.where(mean > 0, mean, np.nan)
    return np.stack([scales[k] for k in series.tolist()], axis=1)
