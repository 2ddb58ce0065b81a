"""Training runs on the table of a CSV file, in a folder; see `rnnx.training.folder_run`."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnnx._core.devices import by_device
from rnnx._core.locks import FolderLock
from rnnx.models import Model
from rnnx.training import checkpoint as checkpoints
from rnnx.training.distributed.group import ALONE
from rnnx.training.folder_run import BEST_NAME, FolderRun, check_free, folder_of
from rnnx.training.folders import check_folder, with_lock
from rnnx.training.table_base import TableSettings
from rnnx.training.tables import TASKS, table_settings


class TableRun(FolderRun):
    """A run of ``rnnx forecast`` or ``rnnx classify``, created by `start` or `resume`.

    Attributes
    ----------
    folder, settings, train_set, validation_set, trainer
        As for `FolderRun`.
    data : list of Series or FrameSequences
        What the table holds.
    test_set : SeriesWindows or None
        What no training sees.
    """

    def __init__(self, folder: Path, settings: TableSettings, data: Any, model: Model, lock: FolderLock | None) -> None:
        self.data, self.hash = data, settings.fingerprint()
        train, validation, self.test_set = settings.sets(data)
        super().__init__(folder, settings.located(), model, train, validation, lock=lock)

    def description(self) -> dict[str, Any]:
        """Return what the run learns, and a hash of the table."""
        return {"task": self.settings.task, "fingerprint": self.hash}

    @classmethod
    def start(cls, folder: str | Path, settings: TableSettings, data: Any, device: str = "cpu") -> "TableRun":
        """Create a new run on what `settings.read` returned. Nothing but a lock is written before the first step.

        Raises
        ------
        ValueError, OSError
            If a setting is out of range or the data do not fit, or the folder contains a run, is in use or is not
            writable.
        """
        path = Path(folder)

        def new(lock: FolderLock | None) -> "TableRun":
            check_free(path)
            complete = settings.prepared(data)
            return cls(path, complete, data, complete.model(data, by_device(device)), lock)

        check_folder(path)
        return with_lock(path, ALONE, new)

    @classmethod
    def resume(cls, folder: str | Path, task: str, device: str = "cpu", **changes: Any) -> "TableRun":
        """Resume the run in a folder, bit-identical to an uninterrupted run.

        Parameters
        ----------
        folder : path
            The folder, or the checkpoint in it.
        task : {"forecast", "classify"}
            What the run must be.
        device : {"cpu", "cuda"}
        **changes
            New values of epochs or patience; or `table`, if the file has moved.

        Raises
        ------
        ValueError, OSError
            If there is no run to resume, it is in use, or its table has changed.
        """
        path = Path(folder)

        def resumed(lock: FolderLock | None) -> "TableRun":
            loaded = checkpoints.load_run(path, by_device(device))
            settings = replace(table_settings(loaded), **changes)
            if settings.task != task:
                raise ValueError(f"{folder} is a run of `rnnx {settings.task}`")
            if settings.fingerprint() != loaded.training.get("fingerprint"):
                raise ValueError(f"{settings.table} differs from the table that the run was trained on")
            run = cls(folder_of(path), settings, settings.read(), loaded.model, lock)
            run.continue_from(path, loaded, changed=bool(set(changes) - {"table"}))
            return run

        return with_lock(folder_of(path), ALONE, resumed)

    def best(self) -> Any:
        """Return the model with the best validation loss so far; without validation, the model."""
        path = self.folder / BEST_NAME
        return checkpoints.load_checkpoint(path).model if path.exists() else self.model


def load_best(path: str | Path) -> checkpoints.Checkpoint:
    """Load a checkpoint file or, of a run in a folder, its best model."""
    folder = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if folder.is_dir():
            return checkpoints.load_checkpoint(folder / BEST_NAME)
    return checkpoints.load_run(path, None)


def load_exported(path: str | Path) -> checkpoints.Checkpoint:
    """Load a checkpoint file or, of a run in a folder, the model that its commands use."""
    loaded = checkpoints.load_run(path, None)
    return load_best(path) if loaded.training.get("task") in TASKS else loaded
