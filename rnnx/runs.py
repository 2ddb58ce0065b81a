"""A run of training a character model, as a folder: what it learns from, its checkpoint and its metrics.

The folder holds ``model.safetensors``, from which the run can go on; ``best.safetensors``, the model with the best
validation loss; ``metrics.jsonl`` and ``metrics.csv``.
"""

import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import rnnx
from rnnx import _namespace as ns
from rnnx import checkpoint as checkpoints
from rnnx._files import check_writable
from rnnx._namespace import Array
from rnnx.corpus import CORPORA, Corpus, make_corpus
from rnnx.metrics import MetricsWriter
from rnnx.models import CharModel, square_root_segments
from rnnx.optim import (
    CosineDecay,
    ExponentialDecay,
    LinearWarmup,
    Optimizer,
    StepDecay,
    optimizer_from_config,
)
from rnnx.text import CharTokenizer
from rnnx.training import Progress, Trainer

BEST_NAME = "best.safetensors"


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes. Plain values; the defaults are those of ``rnnx train``."""

    dataset: str = "dinos"  # a name in CORPORA, or
    text: str | None = None  # a file
    by: str = "auto"
    split: str = "tail"
    validation: float = 0.1
    min_count: int = 1
    seq_length: int = 64
    cell: str = "lstm"
    reset_after: bool = False
    hidden_size: tuple[int, ...] = (128,)
    num_layers: int = 1
    dropout: float = 0.0
    init: str = "keras"
    dtype: str = "float32"
    optimizer: str = "adam"
    learning_rate: float = 0.003
    momentum: float = 0.9  # of the optimizers that have one
    weight_decay: float | None = None  # None: as the optimizer has it
    decay: str = "none"  # "step", "exponential" or "cosine"
    decay_every: float = 1.0  # epochs
    decay_factor: float = 0.5
    warmup: int = 0  # steps
    clip_norm: float | None = 5.0
    clip_value: float | None = None
    epochs: int | None = 12
    iterations: int | None = None
    batch_size: int = 16
    evaluate_every: int | None = None
    patience: int | None = None
    seed: int = 0
    shuffle: bool = True
    segment_length: int | str | None = None  # "sqrt": the one that needs least memory

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """The settings that a checkpoint holds.

        Raises
        ------
        ValueError
            If a name is missing or unknown.
        """
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            raise ValueError(f"the settings of a run are {sorted(names)}; got {sorted(values)}")
        return cls(**{**values, "hidden_size": tuple(values["hidden_size"])})

    def name(self) -> str:
        """What is learned."""
        return Path(self.text).stem if self.text else self.dataset

    def same_corpus(self, checkpoint: checkpoints.Checkpoint) -> Corpus:
        """The datasets of a run that a checkpoint is of.

        Raises
        ------
        ValueError
            If the text is not the same any more.
        OSError
            If it cannot be read.
        """
        try:
            corpus = self.corpus(checkpoint.tokenizer)
            same = corpus.fingerprint == checkpoint.training.get("fingerprint")
        except ValueError:  # characters that the tokenizer does not know, for instance
            same = False
        if not same:
            raise ValueError(f"{self.name()} is not the text that the run has learned from so far")
        return corpus

    def corpus(self, tokenizer: CharTokenizer | None = None) -> Corpus:
        """The datasets; with the tokenizer of a trained model if there is one.

        Raises
        ------
        ValueError, OSError
            As `rnnx.corpus.make_corpus`.
        """
        if not self.text and self.dataset not in CORPORA:
            raise ValueError(f"`dataset` must be one of {sorted(CORPORA)}; got {self.dataset!r}")
        rare = tokenizer is None and self.min_count > 1
        return make_corpus(
            self.name(),
            Path(self.text) if self.text else CORPORA[self.dataset](),
            by=self.by,
            length=self.seq_length,
            seed=self.seed,
            validation=self.validation,
            split=self.split,
            oov_token="<UNK>" if rare else None,
            min_count=self.min_count if rare else 1,
            tokenizer=tokenizer,
        )

    def update_rule(self, n_batches: int) -> Optimizer:
        """The optimizer, for epochs of so many batches.

        Raises
        ------
        ValueError
            For a value out of range.
        """
        steps = min(self.iterations or sys.maxsize, (self.epochs or sys.maxsize) * n_batches)
        every = max(1, round(self.decay_every * n_batches))
        schedules: dict[str, Any] = {
            "none": lambda: self.learning_rate,
            "step": lambda: StepDecay(self.learning_rate, every, self.decay_factor),
            "exponential": lambda: ExponentialDecay(self.learning_rate, self.decay_factor, every),
            "cosine": lambda: CosineDecay(self.learning_rate, steps - self.warmup),
        }
        if self.decay not in schedules:
            raise ValueError(f"`decay` must be one of {[*schedules]}; got {self.decay!r}")
        if not 0 <= self.warmup < steps:
            raise ValueError(f"`warmup` must be at least 0 and below the {steps} steps of the run; got {self.warmup}")
        rate = schedules[self.decay]()
        config: dict[str, Any] = {
            "name": self.optimizer,
            "learning_rate": LinearWarmup(rate, self.warmup) if self.warmup else rate,
        }
        if self.optimizer in ("momentum", "nesterov"):
            config["momentum"] = self.momentum
        if self.weight_decay is not None:
            config["weight_decay"] = self.weight_decay
        return optimizer_from_config(config)


class Run:
    """A run in its folder. See `start` and `resume`.

    Attributes
    ----------
    folder : Path
    settings : Settings
    corpus : Corpus
    trainer : Trainer
    """

    def __init__(self, folder: Path, settings: Settings, corpus: Corpus, model: CharModel) -> None:
        self.folder, self.settings, self.corpus, self.model = folder, settings, corpus, model
        segment: Any = settings.segment_length
        self.trainer = Trainer(
            model,
            settings.update_rule(corpus.train.n_batches(settings.batch_size)),
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            seed=settings.seed,
            shuffle=settings.shuffle,
            segment_length=square_root_segments(settings.seq_length) if segment == "sqrt" else segment,
        )

    @classmethod
    def start(cls, folder: str | Path, settings: Settings, device: str = "cpu") -> "Run":
        """A new run. Nothing is written before the first step.

        Parameters
        ----------
        folder : path
            It may exist, but hold no run.
        settings : Settings
        device : {"cpu", "cuda"}

        Raises
        ------
        ValueError, OSError
            For settings out of their range, a text that cannot be learned, a folder that holds a run or cannot be
            written to.
        """
        folder = Path(folder)
        if (folder / checkpoints.FILE_NAME).exists():
            raise ValueError(f"{folder} holds a run already: go on with it, or choose another folder")
        xp = ns.by_device(device)
        corpus = settings.corpus()
        model = CharModel(
            corpus.tokenizer.vocab_size,
            settings.hidden_size if len(settings.hidden_size) > 1 else settings.hidden_size[0],
            settings.num_layers,
            cell=settings.cell,
            reset_after=settings.reset_after,
            dropout=settings.dropout,
            seed=settings.seed,
            scheme=settings.init,
            dtype=settings.dtype,
            xp=xp,
        )
        if corpus.validation is not None:
            corpus.validation.n_batches(settings.batch_size)  # raises if it is too short for streams
        run = cls(folder, settings, corpus, model)
        _check_folder(folder)
        return run

    @classmethod
    def resume(cls, folder: str | Path, device: str = "cpu", **changes: Any) -> "Run":
        """Go on with the run in a folder: bit for bit the run that was not interrupted.

        Parameters
        ----------
        folder : path
        device : {"cpu", "cuda"}
        **changes
            Settings that say how long to train: epochs, iterations, patience, evaluate_every.

        Raises
        ------
        ValueError, OSError
            If there is no run to go on with, or its text is not the same any more.
        """
        folder = Path(folder)
        loaded = checkpoints.load(folder / checkpoints.FILE_NAME, xp=ns.by_device(device))
        settings, counters = settings_of(loaded), loaded.training.get("counters")
        corpus = settings.same_corpus(loaded)
        run = cls(folder, replace(settings, **changes), corpus, loaded.model)
        if not isinstance(counters, dict):
            raise ValueError(f"{folder} holds a model, but no run to go on with")
        run.trainer.restore(counters, loaded.arrays)
        return run

    def train(self, save_every: float = 30.0) -> Generator[Progress, None, None]:
        """Train to the end of the settings, write metrics, and save now and then, at the end and on any error.

        Parameters
        ----------
        save_every : float
            Seconds between checkpoints; the last state is saved anyway.

        Yields
        ------
        Progress
        """
        settings, trainer = self.settings, self.trainer
        items = trainer.run(
            self.corpus.train,
            self.corpus.validation,
            epochs=settings.epochs,
            iterations=settings.iterations,
            batch_size=settings.batch_size,
            evaluate_every=settings.evaluate_every,
            patience=settings.patience,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        counters = trainer.counters
        metrics = MetricsWriter(self.folder, counters.step, counters.evaluated)
        started = saved = time.perf_counter()
        try:
            for progress in items:
                now = time.perf_counter()
                metrics.write(progress, now - started)
                if progress.validation_loss is not None and trainer.counters.since_best == 0:
                    self._save(BEST_NAME, {})
                if now - saved >= save_every:
                    metrics.flush()
                    self.save()
                    saved = time.perf_counter()
                yield progress
        finally:  # whatever happened, what was learned is not lost
            metrics.close()
            if trainer.step and trainer.whole:
                self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        self._save(checkpoints.FILE_NAME, self.trainer.state()[1])

    def _save(self, name: str, arrays: dict[str, Array]) -> None:
        training = {
            "settings": asdict(self.settings),
            "by": self.corpus.by,
            "split": self.corpus.split,
            "fingerprint": self.corpus.fingerprint,
            "counters": self.trainer.state()[0],
            "rnnx": rnnx.__version__,
        }
        checkpoint = checkpoints.Checkpoint(self.model, self.corpus.tokenizer, training, arrays)
        checkpoints.save(self.folder / name, checkpoint)


def settings_of(checkpoint: checkpoints.Checkpoint) -> Settings:
    """The settings of the run that a checkpoint is of.

    Raises
    ------
    ValueError
        If it is of no run.
    """
    settings = checkpoint.training.get("settings")
    if not isinstance(settings, dict) or not isinstance(checkpoint.model, CharModel):
        raise ValueError("the checkpoint is not one of a run that `rnnx train` made")
    return Settings.from_dict(settings)


def free_folder(parent: str | Path, name: str) -> Path:
    """A folder for a new run: parent/name, or the first of parent/name-2, ... that does not exist."""
    folder, number = Path(parent) / name, 1
    while folder.exists():
        number += 1
        folder = Path(parent) / f"{name}-{number}"
    return folder


def _check_folder(folder: Path) -> None:
    """Raise unless a checkpoint can be written there, creating nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"cannot write to {folder}: {existing} is not a folder")
    check_writable(existing / checkpoints.FILE_NAME)
