"""The base of the settings of runs on a CSV file: which columns are what, and what follows from them."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from rnnx._core.files import open_regular
from rnnx.models import Model
from rnnx.models.layers import chosen_cell
from rnnx.training.settings import TrainingSettings


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
