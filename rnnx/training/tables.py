"""The settings of runs on a CSV file: which columns are what, and the data sets and the model that follow from them."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from rnnx._core.checks import integer, real
from rnnx._core.files import errors_of, open_regular
from rnnx.data import (
    Examples,
    FrameSequences,
    Scaler,
    Series,
    SeriesWindows,
    folds_by_group,
    read_table,
    sequences_from_frame,
    series_from_frame,
    split_by_group,
)
from rnnx.data.tables import header_of
from rnnx.data.times import season_of
from rnnx.losses import Loss, Quantile, as_loss
from rnnx.models import Model, SequenceClassifier, SequenceRegressor
from rnnx.models.layers import chosen_cell
from rnnx.training import checkpoint as checkpoints
from rnnx.training.settings import TrainingSettings
from rnnx.training.stored import later

QUANTILES = (0.1, 0.5, 0.9)  # by default, of a loss that has quantiles
_MOST_INPUTS = 256  # steps of the past by default


@dataclass(frozen=True)
class TableSettings(TrainingSettings, ABC):
    """The settings of a run on a table."""

    table: str = ""
    id: str | None = None
    time: str | None = None
    hidden_size: tuple[int, ...] = (32,)
    learning_rate: float = 0.005
    batch_size: int = 32

    task: ClassVar[str]

    def located(self) -> Self:
        """Return these settings with the absolute path of the file."""
        return replace(self, table=str(Path(self.table).absolute()))

    def fingerprint(self) -> str:
        """Return a hash of the file."""
        with open_regular(self.table) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def of_model(self, xp: Any) -> dict[str, Any]:
        """Return the options of the model that are settings."""
        names = ("num_layers", "dropout", "zoneout", "recurrent_dropout", "seed", "scheme", "dtype")
        of_cell = chosen_cell(self.cell, self.reset_after)[1]
        width = self.hidden_size if len(self.hidden_size) > 1 else self.hidden_size[0]
        return {"hidden_size": width, "xp": xp, **of_cell, **self.select(*names)}

    @abstractmethod
    def of_program(self) -> dict[str, Any]:
        """Return what a program that runs the model must know, as plain values: what its inputs are, in order, ..."""

    @abstractmethod
    def read(self, path: Any = None, *, complete: bool = True) -> Any:
        """Read the table, or another one like it; without `complete`, it needs no targets."""

    @abstractmethod
    def prepared(self, data: Any) -> Self:
        """Return these settings with what follows from the data in place of None; ValueError if they do not fit."""

    @abstractmethod
    def sets(self, data: Any) -> tuple[Any, ...]:
        """Return the training set, the validation set or None, and the test set or None."""

    @abstractmethod
    def model(self, data: Any, xp: Any = None) -> Model:
        """Return a new model."""


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


@dataclass(frozen=True)
class ClassifySettings(TableSettings):
    """The settings of a run of ``rnnx classify``, with its defaults."""

    label: str = ""
    inputs: tuple[str, ...] = ()
    group: str | None = None
    folds: int = 5
    bidirectional: bool = False
    validation: float | None = later(0.0)  # None: 0.1 with `patience`, otherwise nothing is held out
    epochs: int | None = 50

    task = "classify"

    def of_program(self) -> dict[str, Any]:
        """Return the inputs of a step."""
        return self.select("inputs")

    def read(self, path: Any = None, *, complete: bool = True) -> FrameSequences:
        """Read the sequences of the table."""
        path = self.table if path is None else path
        times = [] if self.time is None else [self.time]
        names = [str(self.id), *([self.label] if complete else [])]
        table = read_table(path, numbers=self.inputs or self._others(path), times=times, names=names)
        inputs = [name for name in table if name not in (*times, *names)]
        with errors_of(path):
            if complete:
                _one_for_each(table, str(self.id), self.label)
            target = self.label if complete else None
            return sequences_from_frame(table, id=str(self.id), time=self.time, inputs=inputs, target=target)

    def _others(self, path: Any) -> list[str]:
        """Return the columns that have no other role."""
        roles = (self.id, self.time, self.label, self.group)
        return [name for name in header_of(path) if name not in roles]

    def groups(self, data: FrameSequences) -> Any:
        """Return what must not be divided between folds: a group for each sequence."""
        if self.group is None:
            return np.arange(len(data.ids))
        of_ids = _group_of_each(self.table, str(self.id), self.group, Path(self.table).stat().st_mtime_ns)
        return [str(of_ids[name]) for name in data.ids]

    def prepared(self, data: FrameSequences) -> "ClassifySettings":
        """Return these settings with the names of the inputs and the part to hold out."""
        if len(data.classes or ()) < 2:
            raise ValueError(
                f"{self.table}: the column {self.label!r} must have at least 2 classes; got {data.classes}"
            )
        part = self.validation
        if part is None:
            part = 0.1 if self.patience else 0.0
        settings = replace(self, inputs=self.inputs or tuple(self._others(self.table)), validation=part)
        everything = np.arange(len(data.ids))
        settings.divided(data, everything)
        if integer("folds", self.folds, 0):
            for held in self.parts(data):
                settings.divided(data, np.setdiff1d(everything, held))
        return settings

    def parts(self, data: FrameSequences) -> list[np.ndarray]:
        """Return the indices of the sequences that each fold holds out."""
        return folds_by_group(self.groups(data), self.folds, labels=data.targets, rng=self.seed)

    def sets(self, data: FrameSequences) -> tuple[Any, ...]:
        """Return the training set and what `validation` holds out: cross-validation trains models of its own."""
        return *self.divided(data, np.arange(len(data.ids))), None

    def divided(self, data: FrameSequences, chosen: np.ndarray) -> tuple[Examples, Examples | None]:
        """Return these sequences without what `validation` holds out of them, and that, or None."""
        examples = data.examples().take(chosen)
        part = real("validation", self.validation or 0.0, "[0, 1)")
        if not part:
            return examples, None
        labels, groups = np.asarray(data.targets)[chosen], np.asarray(self.groups(data))[chosen]
        train, held = split_by_group(groups, part, labels=labels, rng=self.seed)
        return examples.take(train), examples.take(held)

    def model(self, data: FrameSequences, xp: Any = None) -> SequenceClassifier:
        """Return a new model, with a scaler of the training set."""
        return self.model_of(self.sets(data)[0], data.classes, xp)

    def model_of(self, examples: Examples, classes: Any, xp: Any = None) -> SequenceClassifier:
        """Return a new model, with a scaler of these examples."""
        scaler = Scaler.fit(examples.inputs, lengths=examples.lengths)
        options = {"classes": classes, "input_scaler": scaler, "bidirectional": self.bidirectional}
        return SequenceClassifier(len(examples.inputs), num_classes=len(classes), **options, **self.of_model(xp))


@lru_cache(maxsize=1)
def _group_of_each(path: str, id: str, group: str, _changed: int) -> dict[Any, Any]:
    """Return the group of each sequence of a table, which is read again only if it has changed."""
    table = read_table(path, names=[id, group])
    with errors_of(path):
        return _one_for_each(table, id, group)


def _one_for_each(table: dict[str, np.ndarray], id: str, column: str) -> dict[Any, Any]:
    """Return the value of a column for each id; raise ValueError if one has several."""
    found: dict[Any, Any] = {}
    for name, value in zip(table[id].tolist(), table[column].tolist(), strict=True):
        if found.setdefault(name, value) != value:
            raise ValueError(f"the column {column!r} must be the same in all rows of a sequence; {name!r} has several")
    return found


TASKS: dict[str, type[TableSettings]] = {one.task: one for one in (ForecastSettings, ClassifySettings)}


def table_settings(loaded: checkpoints.Checkpoint) -> Any:
    """Return the settings of a run on a table from its checkpoint; raise ValueError if there are none."""
    task = loaded.training.get("task")
    if task not in TASKS:
        raise ValueError("the checkpoint does not belong to a run of `rnnx forecast` or `rnnx classify`")
    return TASKS[task].of(loaded)
