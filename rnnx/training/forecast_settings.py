"""The settings of ``rnnx forecast``: the series of a table, their windows, and the model."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx._core.checks import integer, real
from rnnx._core.files import errors_of
from rnnx.data import Series, SeriesWindows, read_table, series_from_frame
from rnnx.data.times import season_of
from rnnx.losses import Loss, Quantile, as_loss
from rnnx.models import SequenceRegressor
from rnnx.training.stored import later
from rnnx.training.table_base import TableSettings

QUANTILES = (0.1, 0.5, 0.9)  # by default, of a loss that has quantiles
_MOST_INPUTS = 256  # steps of the past by default


@dataclass(frozen=True)
class ForecastSettings(TableSettings):
    """The settings of a run of ``rnnx forecast``, with its defaults."""

    target: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    horizon: int = 1
    input_length: int | None = None
    season: int | None = None
    loss: str = later("quantile")
    quantiles: tuple[float, ...] | None = None  # 0.1, 0.5 and 0.9, if the loss has quantiles
    stride: int = 1
    gaps: str = "error"
    allow_gaps: bool = False
    validation: float = 0.1
    backtest: int | None = None  # steps
    epochs: int | None = 30
    patience: int | None = 5

    task = "forecast"

    def of_program(self) -> dict[str, Any]:
        """Return the inputs of a step, what is forecast, and the steps of a window; see `SeriesWindows`."""
        inputs = [*self.target, *self.past, "is past", *self.future, *self.static]
        return {"inputs": inputs, **self.select("target", "input_length", "horizon"), "season": self._differences()}

    def read(self, path: Any = None, *, complete: bool = True) -> list[Series]:  # noqa: ARG002
        """Read the series of the table."""
        path = self.table if path is None else path
        columns = (*self.target, *self.past, *self.future, *self.static)
        names = [] if self.id is None else [self.id]
        table = read_table(path, numbers=columns, times=[str(self.time)], names=names)
        with errors_of(path):
            return series_from_frame(
                table, time=str(self.time), **self.select("target", "id", "past", "future", "static", "allow_gaps")
            )

    def prepared(self, data: list[Series]) -> "ForecastSettings":
        """Return these settings with the season, the lengths and the quantiles that suit the series and the loss."""
        loss, levels = self.loss_function(), self.quantiles
        with errors_of(self.table):
            for one in data:
                for column, values in zip(self.target, one.targets, strict=True):
                    loss.check_targets(column, values)
        horizon, steps = integer("horizon", self.horizon), max(one.targets.shape[1] for one in data)
        season = self.season
        if season is None:
            longest = max(data, key=lambda one: one.targets.shape[1])
            season = season_of(np.asarray(longest.times))
            season = season if 3 * season <= steps else 1
        held = self.backtest
        if held is None:
            held = min(4 * horizon, max(horizon, steps // (5 * horizon) * horizon))
        length = self.input_length
        if length is None:
            free = steps - held - 2 * horizon - self._validation_steps(steps)
            length = max(season, min(max(2 * season, 2 * horizon), free, max(_MOST_INPUTS, season)), 1)
        levels = levels if levels is not None else QUANTILES if loss.has_quantiles else ()
        settings = replace(self, season=season, backtest=held, input_length=length, quantiles=levels)
        with errors_of(self.table):  # if a series is too short, or what is known in advance is missing
            settings.windows(data).ahead()
            settings.sets(data)
        return settings

    def _validation_steps(self, steps: int) -> int:
        return max(self.horizon, round(real("validation", self.validation, "(0, 1)") * steps))

    def loss_function(self) -> Loss:
        """Return the loss of the model; raise ValueError if it has no such quantiles."""
        levels = self.quantiles
        loss = Quantile(levels or QUANTILES) if self.loss == Quantile.name else as_loss(self.loss, ("numbers",))
        if levels:
            loss.check_levels(levels)
        return loss

    def windows(self, data: list[Series], *, ahead: bool = False) -> SeriesWindows:
        """Return the windows over all series; with `ahead`, there may be none."""
        length, horizon = integer("input_length", self.input_length), integer("horizon", self.horizon)
        options = {"season": self._differences(), **self.select("stride", "gaps")}
        return SeriesWindows(data, length, horizon, allow_none=ahead, **options)

    def _differences(self) -> int | None:
        """Return the season whose differences the model learns; None if its loss allows nothing below 0."""
        return self.season if self.loss_function().shifts else None

    def sets(self, data: list[Series]) -> tuple[Any, ...]:
        """Return the windows of the three parts of the series; the last is None without a backtest."""
        windows = self.windows(data)
        steps = self._validation_steps(max(one.targets.shape[1] for one in data))
        if self.backtest:
            return windows.split(steps, self.backtest)
        return *windows.split(steps), None

    def model(self, data: list[Series], xp: Any = None) -> SequenceRegressor:
        """Return a new model, with scalers of the training set."""
        train, loss = self.sets(data)[0], self.loss_function()
        inputs, targets = train.scalers(shift=loss.shifts)
        return SequenceRegressor(
            train.n_inputs,
            output_size=train.n_targets,
            per_step=True,
            loss=loss,
            input_scaler=inputs,
            target_scaler=targets,
            **self.of_model(xp),
        )
