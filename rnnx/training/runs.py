"""A training run of a character model in a folder.

The folder holds ``model.safetensors``, from which the run can resume; ``best.safetensors``, the model with the best
validation loss; ``metrics.jsonl`` and ``metrics.csv``.
"""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rnnx
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods
from rnnx._core.devices import by_device
from rnnx._core.locks import FolderLock
from rnnx.cells import Cell
from rnnx.data import Corpus
from rnnx.models import CharModel, square_root_segments
from rnnx.models.layers import chosen_cell
from rnnx.training import checkpoint as checkpoints
from rnnx.training.counters import Limits
from rnnx.training.distributed.group import ALONE, Group, agreed, all_end, any_rank, check_alike
from rnnx.training.finite import all_finite
from rnnx.training.folders import check_folder, with_lock
from rnnx.training.initial import initial_model
from rnnx.training.metrics import MetricsWriter, NoMetrics, checked_records
from rnnx.training.progress import Progress
from rnnx.training.settings import Settings
from rnnx.training.trainer import Trainer

BEST_NAME = "best.safetensors"
_LIMITS = ("epochs", "iterations", "batch_size", "evaluate_every", "patience")


class Run:
    """A training run in a folder, created by `start` or `resume`.

    It locks the folder until the end of `train`, or until it is closed or no longer referred to: another run in the
    same folder is an error that names the other process. The lock does not outlive its process.

    On several ranks, all read the files and make the same calls, and rank 0 writes.

    Attributes
    ----------
    folder : Path
    settings : Settings
    corpus : Corpus
    trainer : Trainer
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        corpus: Corpus,
        model: CharModel,
        lock: FolderLock | None = None,
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.folder, self.settings, self.corpus, self.model = folder, settings.located(), corpus, model
        self._lock = lock
        self._unwritten: list[dict[str, Any]] = []  # metrics that could not be written, which a checkpoint keeps
        segment: Any = settings.segment_length
        Limits(**settings.select(*_LIMITS))  # checked now, and not at the first step
        self.trainer = Trainer(
            model,
            settings.update_rule(corpus.train.n_batches(settings.batch_size)),
            segment_length=square_root_segments(settings.seq_length) if segment == "sqrt" else segment,
            group=group,
            **settings.select("clip_norm", "clip_value", "seed", "shuffle", "precision", "shards", "reduce"),
        )

    @classmethod
    def start(
        cls,
        folder: str | Path,
        settings: Settings,
        device: str = "cpu",
        *,
        cell: Cell | None = None,
        init_from: str | Path | None = None,
        group: Group = ALONE,
    ) -> "Run":
        """Create a new run. Nothing but a lock is written before the first step.

        Parameters
        ----------
        folder : path
            May exist, but must not contain a run.
        settings : Settings
        device : {"cpu", "cuda"}
        cell : Cell, optional
            A cell of your own, instead of the one in `settings`. `resume` then needs it, too.
        init_from : path, optional
            A run or a checkpoint whose character model to train further, on the text of `settings`. The cell and the
            sizes are those of this model; characters that it does not know are added.
        group : Group
            The ranks to train on; see `Trainer`. Without `shards` in `settings`, a batch has one for each.

        Raises
        ------
        ValueError, OSError
            If a setting is out of range, the text is unsuitable, or the folder contains a run, is in use or is not
            writable.
        """
        folder = Path(folder)
        check_methods("settings", settings, "a rnnx.training.Settings", "corpus", "update_rule")
        if group.size > 1 and settings.shards is None:
            settings = replace(settings, shards=group.size)

        def check() -> None:
            if group.rank == 0:
                check_folder(folder)

        def new(lock: FolderLock | None) -> "Run":
            return cls._new(folder, settings, device, lock, cell, init_from, group)

        agreed(group, check)
        return with_lock(folder, group, new)._checked()

    def _checked(self) -> "Run":
        """Raise unless all ranks have the same run."""
        if self.group.size > 1:
            settings = {f"`{name}`": value for name, value in asdict(self.settings).items() if name != "text"}
            check_alike(self.group, {"the text": self.corpus.fingerprint, **settings})
        return self

    @classmethod
    def _new(
        cls,
        folder: Path,
        settings: Settings,
        device: str,
        lock: FolderLock | None,
        cell: Cell | None,
        init_from: str | Path | None,
        group: Group,
    ) -> "Run":
        if (folder / checkpoints.FILE_NAME).exists():
            raise ValueError(f"{folder} already contains a run: resume it, or choose another folder")
        xp = by_device(device)
        if init_from is not None:
            settings, corpus, model = initial_model(init_from, settings, xp, cell)
            return cls(folder, settings, corpus, model, lock, group)
        record, of_cell = chosen_cell(settings.cell if cell is None else cell, settings.reset_after)
        settings = replace(settings, cell=record.name if isinstance(of_cell["cell"], Cell) else of_cell["cell"])
        corpus = settings.corpus()
        model = CharModel(
            corpus.tokenizer.vocab_size,
            settings.hidden_size if len(settings.hidden_size) > 1 else settings.hidden_size[0],
            xp=xp,
            **of_cell,
            **settings.select("num_layers", "dropout", "zoneout", "recurrent_dropout", "seed", "scheme", "dtype"),
        )
        return cls(folder, settings, corpus, model, lock, group)

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        device: str = "cpu",
        *,
        cell: Cell | None = None,
        group: Group = ALONE,
        **changes: Any,
    ) -> "Run":
        """Resume the run in a folder, bit-identical to an uninterrupted run.

        Parameters
        ----------
        folder : path
            The folder, or the checkpoint in it.
        device : {"cpu", "cuda"}
        cell : Cell, optional
            The cell of the run, if it is a cell of your own.
        group : Group
            The ranks to go on with, which may be others than before, but no more than the run has shards.
        **changes
            New values of epochs, iterations, patience or evaluate_every. They make it a different run: a cosine
            schedule is recomputed, and exhausted patience starts again. Also `text`, if the file has moved.

        Raises
        ------
        ValueError, OSError
            If there is no run to resume, it is in use, or its text has changed.
        """
        path = Path(folder)
        folder = path.parent if path.is_file() else path
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

        def resumed(lock: FolderLock | None) -> "Run":
            return cls._resumed(path, folder, device, changes, lock, cell, group)

        return with_lock(folder, group, resumed)._checked()

    @classmethod
    def _resumed(
        cls,
        path: Path,
        folder: Path,
        device: str,
        changes: dict[str, Any],
        lock: FolderLock | None,
        cell: Cell | None,
        group: Group,
    ) -> "Run":
        loaded = checkpoints.load_run(path, by_device(device), cell)
        settings = replace(Settings.of(loaded), **changes)
        if group.size > 1 and settings.shards is None:
            raise ValueError(f"a run that was started without `shards` resumes on one rank; got {group.size} ranks")
        counters = loaded.training.get("counters")
        run = cls(folder, settings, settings.same_corpus(loaded), loaded.model, lock, group)
        if not isinstance(counters, dict) or (counters.get("step") and not loaded.arrays):
            raise ValueError(f"{path} contains a model, but no training state to resume from")
        run.trainer.restore(counters, loaded.arrays)
        run._unwritten = checked_records(loaded.training.get("unwritten", []))
        if set(changes) - {"text"} and run.out_of_patience():
            run.trainer.counters = replace(run.trainer.counters, since_best=0)
        return run

    def out_of_patience(self) -> bool:
        """Return whether the run has no patience left."""
        patience = self.settings.patience
        return patience is not None and self.trainer.counters.since_best >= patience

    def train(self, save_every: float = 30.0) -> Generator[Progress, None, None]:
        """Train to the end, writing metrics and yielding each `Progress`.

        Saves every `save_every` seconds, at the end and on any error.

        Raises
        ------
        FloatingPointError
            As `Trainer.run`, and if the parameters or the optimizer state are not finite, which cannot be saved.
        """
        trainer = self.trainer
        items = trainer.run(self.corpus.train, self.corpus.validation, **self.settings.select(*_LIMITS))
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
            "by": self.corpus.by,
            "split": self.corpus.split,
            "fingerprint": self.corpus.fingerprint,
            "counters": self.trainer.values(),
            "rnnx": rnnx.__version__,
            **more,
        }
        checkpoint = checkpoints.Checkpoint(self.model, self.corpus.tokenizer, training, arrays)
        checkpoints.save_checkpoint(self.folder / name, checkpoint)
