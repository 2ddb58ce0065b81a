"""The base of training runs in a folder: training with metrics and checkpoints, and resuming.

The folder holds ``model.safetensors``, from which the run can resume; ``best.safetensors``, the model with the best
validation loss; ``metrics.jsonl`` and ``metrics.csv``.
"""

import errno
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rnnx
from rnnx._core.arrays import Array
from rnnx._core.locks import FolderLock
from rnnx.data import CharTokenizer, Dataset
from rnnx.models import Model
from rnnx.training import checkpoint as checkpoints
from rnnx.training.counters import Limits
from rnnx.training.distributed.group import ALONE, Group, agreed, all_end, any_rank
from rnnx.training.finite import all_finite
from rnnx.training.metrics import MetricsWriter, NoMetrics, checked_records
from rnnx.training.progress import Progress
from rnnx.training.settings import TrainingSettings
from rnnx.training.trainer import Trainer

BEST_NAME = "best.safetensors"
_LIMITS = ("epochs", "iterations", "batch_size", "evaluate_every", "patience")


class FolderRun(ABC):
    """A training run in a folder.

    It locks the folder until the end of `train`, or until it is closed or no longer referred to: another run in the
    same folder is an error that names the other process. The lock does not outlive its process.

    On several ranks, all read the files and make the same calls, and rank 0 writes.

    Attributes
    ----------
    folder : Path
    settings : TrainingSettings
    train_set, validation_set : Dataset
        The second may be None.
    trainer : Trainer
    """

    settings: Any
    tokenizer: CharTokenizer | None = None

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        model: Model,
        train_set: Dataset,
        validation_set: Dataset | None,
        *,
        segment_length: int | None = None,
        lock: FolderLock | None = None,
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.folder, self.settings, self.model = folder, settings, model
        self.train_set, self.validation_set = train_set, validation_set
        self._lock = lock
        self._unwritten: list[dict[str, Any]] = []  # metrics that could not be written, which a checkpoint keeps
        Limits(**settings.select(*_LIMITS))  # checked now, and not at the first step
        self.trainer = Trainer(
            model,
            settings.update_rule(train_set.n_batches(settings.batch_size)),
            segment_length=segment_length,
            group=group,
            **settings.select("clip_norm", "clip_value", "seed", "shuffle", "precision", "shards", "reduce"),
        )

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return what a checkpoint says of the data, as plain values."""

    def continue_from(self, path: Path, loaded: checkpoints.Checkpoint, *, changed: bool) -> None:
        """Restore the training state of a checkpoint; with `changed` limits, exhausted patience starts again."""
        counters = loaded.training.get("counters")
        if not isinstance(counters, dict) or (counters.get("step") and not loaded.arrays):
            raise ValueError(f"{path} contains a model, but no training state to resume from")
        self.trainer.restore(counters, loaded.arrays)
        self._unwritten = checked_records(loaded.training.get("unwritten", []))
        if changed and self.out_of_patience():
            self.trainer.counters = replace(self.trainer.counters, since_best=0)

    def out_of_patience(self) -> bool:
        """Return whether the run has no patience left."""
        patience = self.settings.patience
        return patience is not None and self.trainer.counters.since_best >= patience

    def ended(self) -> bool:
        """Return whether the run has nothing left to do."""
        limits, at = Limits(**self.settings.select(*_LIMITS)), self.trainer.counters
        end_of_epoch = at.batch >= self.train_set.n_batches(self.settings.batch_size)
        return limits.ended(at) or (end_of_epoch and limits.ended_after_epoch(at))

    def train(self, save_every: float = 30.0) -> Generator[Progress, None, None]:
        """Train to the end, writing metrics and yielding each `Progress`.

        Saves every `save_every` seconds, at the end and on any error.

        Raises
        ------
        FloatingPointError
            As `Trainer.run`, and if the parameters or the optimizer state are not finite, which cannot be saved.
        """
        trainer = self.trainer
        items = trainer.run(self.train_set, self.validation_set, **self.settings.select(*_LIMITS))
        release, metrics = agreed(self.group, self._open)
        started = saved = time.perf_counter()
        unrecorded: deque[tuple[Progress, float]] = deque()  # the numbers of some are still on a device

        def record() -> None:
            while unrecorded and unrecorded[0][0].known:
                progress, seconds = unrecorded[0]
                metrics.write(progress, seconds)
                if progress.evaluation and trainer.counters.since_best == 0 and progress.validation_loss is not None:
                    self._save(BEST_NAME, {})
                unrecorded.popleft()

        def record_all() -> None:
            trainer.settle()  # steps that still have no numbers were not applied
            record()

        with ExitStack() as last:  # all of them run after any error, even if one of them fails
            last.callback(release)
            last.callback(self.save)
            last.callback(lambda: setattr(self, "_unwritten", metrics.waiting))
            last.callback(metrics.close)
            last.callback(record_all)
            last.enter_context(all_end(self.group))
            for progress in items:
                unrecorded.append((progress, time.perf_counter() - started))
                record()
                if any_rank(self.group, time.perf_counter() - saved >= save_every):
                    record_all()
                    self._check_finite()
                    metrics.flush()
                    self.save()
                    saved = time.perf_counter()
                yield progress
            self._check_finite()

    def _open(self) -> tuple[Callable[[], Any], MetricsWriter | NoMetrics]:
        """Open the files that this rank writes; return what releases them, and a writer of metrics."""
        if self.group.rank > 0:
            return lambda: None, NoMetrics()
        release, at = self._hold().release, self.trainer.counters
        metrics = MetricsWriter(self.folder, at.step, at.evaluated, self._unwritten)
        self._unwritten = []
        return release, metrics

    def _hold(self) -> FolderLock:
        """Lock the folder, unless this run holds it."""
        if self._lock is None or not self._lock.held:
            self._lock = FolderLock(self.folder)
        return self._lock

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock is not None:
            self._lock.release()

    def save(self) -> None:
        """Write the checkpoint, unless there is no step yet, or a number is not finite. All ranks must call it."""
        if not self.trainer.step or (arrays := self._finite()) is None or self.group.rank > 0:
            return
        with ExitStack() as last:
            if self._lock is None or not self._lock.held:
                last.callback(self._hold().release)
            self._save(checkpoints.FILE_NAME, arrays, unwritten=self._unwritten)

    def _finite(self) -> dict[str, Array] | None:
        """Return the arrays of the state; None if one, or a parameter, is not finite."""
        arrays = self.trainer.state()[1]
        return arrays if all_finite({**self.model.parameters, **arrays}) else None

    def _check_finite(self) -> None:
        """Raise if the run cannot be saved, now or later. The losses may still be finite."""
        if self._finite() is None:
            raise FloatingPointError(
                f"the optimizer state or the parameters are not finite after step {self.trainer.step}; the run is not "
                "saved any more. A smaller learning rate or weight decay may help"
            )

    def _save(self, name: str, arrays: dict[str, Array], **more: Any) -> None:
        if self.group.rank > 0:
            return
        training = {
            "settings": asdict(self.settings),
            **self.description(),
            "counters": self.trainer.values(),
            "rnnx": rnnx.__version__,
            **more,
        }
        checkpoint = checkpoints.Checkpoint(self.model, self.tokenizer, training, arrays)
        checkpoints.save_checkpoint(self.folder / name, checkpoint)


def check_free(folder: Path) -> None:
    """Raise if a folder contains a run."""
    if (folder / checkpoints.FILE_NAME).exists():
        raise ValueError(f"{folder} already contains a run: resume it, or choose another folder")


def folder_of(path: Path) -> Path:
    """Return the folder of a run, given by itself or by the checkpoint in it; raise OSError if there is none."""
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return folder
