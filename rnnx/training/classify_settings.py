"""The settings of ``rnnx classify``: the sequences of a table, the parts held out, and the model."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core.checks import integer, real
from rnnx._core.files import errors_of
from rnnx.data import (
    Examples,
    FrameSequences,
    Scaler,
    folds_by_group,
    read_table,
    sequences_from_frame,
    split_by_group,
)
from rnnx.data.tables import header_of
from rnnx.models import SequenceClassifier
from rnnx.training.stored import later
from rnnx.training.table_base import TableSettings


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
