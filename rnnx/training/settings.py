"""The settings that determine what a training run computes."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np

from rnnx._core.checks import choice, flag, integer, is_whole, real
from rnnx._core.words import shown
from rnnx.data import CharTokenizer, Corpus, find_text, make_corpus
from rnnx.data.builtin import file_in_data
from rnnx.models import CharModel
from rnnx.optim import CosineDecay, ExponentialDecay, LinearWarmup, Optimizer, StepDecay, optimizer_from_config
from rnnx.training import checkpoint as checkpoints
from rnnx.training.counters import total_steps
from rnnx.training.stored import check_names, later


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of every run: its model and its training, as plain values.

    A new setting is declared with `later`, so that checkpoints without it can still be read.
    """

    cell: str = "lstm"
    reset_after: bool = False
    hidden_size: tuple[int, ...] = (128,)
    num_layers: int = 1
    dropout: float = 0.0
    zoneout: float = later(0.0)
    recurrent_dropout: float = later(0.0)
    scheme: str = "keras"  # of the initial parameters
    dtype: str = "float32"
    precision: str | None = later(None)  # of the passes; None: that of the dtype
    optimizer: str = "adam"
    learning_rate: float = 0.003
    momentum: float = 0.9  # for optimizers with momentum
    weight_decay: float | None = None  # None: the optimizer's default
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
    segment_length: int | str | None = None  # "sqrt": the length that needs least memory
    shards: int | None = later(None)  # of a batch; None: the number of ranks
    reduce: str = later("ordered")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f.name, f.type, getattr(self, f.name)))
        integer("seed", self.seed, 0)

    @classmethod
    def of(cls, checkpoint: checkpoints.Checkpoint) -> Self:
        """Read the settings of a run from its checkpoint; raise ValueError if it has none, or invalid ones."""
        values = checkpoint.training.get("settings")
        if not isinstance(values, Mapping):
            raise ValueError("the checkpoint does not belong to a training run")
        check_names("the settings in the checkpoint", cls, values)
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"invalid settings in the checkpoint: {error}") from None

    def select(self, *names: str) -> dict[str, Any]:
        """Return some settings by name."""
        return {name: getattr(self, name) for name in names}

    def update_rule(self, n_batches: int) -> Optimizer:
        """Return the optimizer, for epochs of n_batches batches; raise ValueError if a value is out of range."""
        steps = total_steps(self.epochs, self.iterations, n_batches)

        choice("decay", self.decay, DECAYS)
        if not 0 <= self.warmup < steps:
            raise ValueError(f"`warmup` must be at least 0 and below the {steps} steps of the run; got {self.warmup}")
        rate = DECAYS[self.decay](self, n_batches, steps)
        rate = LinearWarmup(rate, self.warmup) if self.warmup else rate
        config: dict[str, Any] = {"name": self.optimizer, "learning_rate": rate}
        if self.optimizer in ("momentum", "nesterov"):
            config["momentum"] = self.momentum
        if self.weight_decay is not None:
            config["weight_decay"] = self.weight_decay
        return optimizer_from_config(config)


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Everything that determines what a run of ``rnnx train`` computes, with its defaults.

    See Also
    --------
    Run

    Examples
    --------
    >>> from rnnx.training import Settings
    >>> settings = Settings(cell="gru", hidden_size=(64, 32), dropout=0.1)
    >>> settings.name(), settings.optimizer, settings.learning_rate
    ('dinos', 'adam', 0.003)
    >>> settings.corpus().tokenizer.vocab_size
    53
    """

    dataset: str = "dinos"  # a name that `rnnx.data.find_text` knows
    text: str | None = None  # a file, instead of `dataset`
    lower: bool = later(False)
    by: str = "auto"
    split: str = "tail"
    validation: float = 0.1
    min_count: int = 1
    seq_length: int = 64

    @classmethod
    def of(cls, checkpoint: checkpoints.Checkpoint) -> Self:
        """Read the settings of a run from its checkpoint; raise ValueError if it has none, or invalid ones."""
        if not isinstance(checkpoint.model, CharModel):
            raise ValueError("the checkpoint does not belong to a training run")
        for name in ("by", "split", "fingerprint"):
            if not isinstance(checkpoint.training.get(name), str):
                raise ValueError(f"the checkpoint does not belong to a training run: it has no `{name}`")
        return super().of(checkpoint)

    def located(self) -> "Settings":
        """Return these settings with the absolute path of the text file, if there is one, for use in any folder."""
        file = self.text or file_in_data(self.dataset)
        return replace(self, text=str(Path(file).absolute())) if file else self

    def name(self) -> str:
        """Return the name of the text."""
        return Path(self.text).stem if self.text else self.dataset

    def same_corpus(self, checkpoint: checkpoints.Checkpoint) -> Corpus:
        """Rebuild the datasets of a checkpoint; raise ValueError if the text has changed, OSError if unreadable."""
        try:
            corpus = self.corpus(checkpoint.tokenizer)
            same = corpus.fingerprint == checkpoint.training.get("fingerprint")
        except ValueError:  # for instance, the vocabulary lacks a character
            same = False
        if not same:
            other = "train another run from its model with --init-from"
            raise ValueError(f"{self.name()} differs from the text that the run was trained on: {other}")
        return corpus

    def corpus(self, tokenizer: CharTokenizer | None = None, *, extend: bool = False) -> Corpus:
        """Make the datasets, with the tokenizer of a trained model if given; see `find_text` and `make_corpus`."""
        rare = tokenizer is None and self.min_count > 1
        made = make_corpus(
            self.name(),
            Path(self.text) if self.text else find_text(self.dataset),
            oov_token="<UNK>" if rare else None,
            min_count=self.min_count if rare else 1,
            tokenizer=tokenizer,
            extend=extend,
            **self.select("by", "seq_length", "seed", "validation", "split", "lower"),
        )
        if made.validation is not None:
            made.validation.n_batches(self.batch_size)  # raises if the text is too short for streams
        return made


def _every(settings: TrainingSettings, n_batches: int) -> int:
    """Return `decay_every` in steps, for epochs of n_batches batches."""
    return max(1, round(min(settings.decay_every * n_batches, sys.maxsize)))


# Functions of the settings, of the number of batches of an epoch, and of the number of steps of the run.
DECAYS: dict[str, Callable[[TrainingSettings, int, int], Any]] = {
    "none": lambda s, _batches, _steps: s.learning_rate,
    "step": lambda s, n_batches, _steps: StepDecay(s.learning_rate, _every(s, n_batches), s.decay_factor),
    "exponential": lambda s, n_batches, _steps: ExponentialDecay(s.learning_rate, s.decay_factor, _every(s, n_batches)),
    "cosine": lambda s, _batches, n_steps: CosineDecay(s.learning_rate, n_steps - s.warmup),
}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Return a setting as a plain value, after checking its type; ranges are checked where the setting is used."""
    kinds = get_args(kind) if kind not in (bool, int, float, str) and get_args(kind)[-1:] != (...,) else (kind,)
    if value is None and type(None) in kinds:
        return None
    for one in kinds:
        if one is float and (is_whole(value) or isinstance(value, float | np.floating)):
            return real(name, value)
        if one is int and is_whole(value):
            return int(value)
        if one is bool:
            return flag(name, value)
        if one is str and isinstance(value, str):
            return value
        if get_args(one)[-1:] == (...,) and isinstance(value, list | tuple):
            return tuple(_checked(name, get_args(one)[0], item) for item in value)
    words = kind.__name__ if isinstance(kind, type) else str(kind)
    raise TypeError(f"`{name}` must be {words}; got {shown(value)}")
