"""A training run of a character model in a folder; see `rnnx.training.folder_run`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rnnx._core.checks import check_methods
from rnnx._core.devices import by_device
from rnnx._core.locks import FolderLock
from rnnx.cells import Cell
from rnnx.data import Corpus
from rnnx.models import CharModel, square_root_segments
from rnnx.models.layers import chosen_cell
from rnnx.training import checkpoint as checkpoints
from rnnx.training.distributed.group import ALONE, Group, agreed, check_alike
from rnnx.training.folder_run import FolderRun, check_free, folder_of
from rnnx.training.folders import check_folder, with_lock
from rnnx.training.initial import initial_model
from rnnx.training.settings import Settings


class Run(FolderRun):
    """A training run of a character model in a folder, created by `start` or `resume`.

    Attributes
    ----------
    folder, settings, trainer
        As for `FolderRun`.
    corpus : Corpus

    See Also
    --------
    Settings, Trainer, load_checkpoint

    Examples
    --------
    >>> from rnnx.training import Run, Settings, load_checkpoint
    >>> run = Run.start("runs/small", Settings(hidden_size=(8,), iterations=2, batch_size=4))
    >>> for progress in run.train():
    ...     print(progress.step, progress.evaluation)
    1 False
    2 False
    2 True
    >>> load_checkpoint("runs/small").model.config["hidden_size"]
    [8]
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
        self.corpus, self.tokenizer = corpus, corpus.tokenizer
        segment: Any = settings.segment_length
        super().__init__(
            folder,
            settings.located(),
            model,
            corpus.train,
            corpus.validation,
            segment_length=square_root_segments(settings.seq_length) if segment == "sqrt" else segment,
            lock=lock,
            group=group,
        )

    def description(self) -> dict[str, Any]:
        """Return how the text was divided, and a hash of it."""
        return {"by": self.corpus.by, "split": self.corpus.split, "fingerprint": self.corpus.fingerprint}

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
            check_free(folder)
            xp = by_device(device)
            return cls.unstarted(folder, settings, xp, cell=cell, init_from=init_from, lock=lock, group=group)

        agreed(group, check)
        return with_lock(folder, group, new)._checked()

    def _checked(self) -> "Run":
        """Raise unless all ranks have the same run."""
        if self.group.size > 1:
            settings = {f"`{name}`": value for name, value in asdict(self.settings).items() if name != "text"}
            check_alike(self.group, {"the text": self.corpus.fingerprint, **settings})
        return self

    @classmethod
    def unstarted(
        cls,
        folder: Path,
        settings: Settings,
        xp: Any,
        *,
        cell: Cell | None = None,
        init_from: str | Path | None = None,
        lock: FolderLock | None = None,
        group: Group = ALONE,
    ) -> "Run":
        """Return a run for a folder, which is neither read nor written; see `start`."""
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
        path, folder = Path(folder), folder_of(Path(folder))

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
        run = cls(folder, settings, settings.same_corpus(loaded), loaded.model, lock, group)
        run.continue_from(path, loaded, changed=bool(set(changes) - {"text"}))
        return run
