"""The position in a run, and when the run evaluates and ends."""

import sys
from dataclasses import dataclass, fields, replace
from typing import Any

from rnnx._core.checks import integer, is_whole, real
from rnnx.training.stored import check_names


def _number(name: str, kind: Any, value: Any) -> Any:
    """Check the value of a counter."""
    if kind is int or (kind == int | float and is_whole(value)):
        return integer(name, value, 0, sys.maxsize)
    return None if value is None and kind not in (float, int | float) else real(name, value)


@dataclass
class Counters:
    """The state of a run except its arrays. All random numbers are functions of the seed and these counters.

    A new one is declared with `later`, so that runs without it can go on.
    """

    step: int = 0
    epoch: int = 0  # epochs begun
    batch: int = 0  # batches done in this epoch
    batch_size: int = 0  # in this epoch; 0 before the first
    total: float = 0.0  # sum of the losses of this epoch, weighted by their numbers of terms
    count: int | float = 0  # number of terms, or their weight
    smooth_loss: float | None = None
    grad_norm: float = 0.0
    validation_loss: float | None = None  # of the last evaluation
    evaluated: int = 0  # step of the last evaluation
    best_loss: float | None = None
    since_best: int = 0  # evaluations

    @classmethod
    def of(cls, values: Any) -> "Counters":
        """Return the counters with these plain values, which may come from a file; ValueError if they are wrong."""
        check_names("the counters in `values`", cls, values)
        try:
            return cls(**{f.name: _number(f.name, f.type, values[f.name]) for f in fields(cls) if f.name in values})
        except TypeError as error:
            raise ValueError(f"wrong counters: {error}") from None

    def after_step(self, count: float) -> "Counters":
        """Return the counters after a step whose loss is not known yet."""
        return replace(self, step=self.step + 1, batch=self.batch + 1, count=self.count + count)

    def with_numbers(self, loss: float, norm: float, count: float) -> "Counters":
        """Add the loss of the next step, a mean over `count` terms, and its gradient norm."""
        weight = max(0.01, 10 / (self.step + 10))  # an average over the last tenth, so that it forgets the beginning
        smooth = loss if self.smooth_loss is None else self.smooth_loss + weight * (loss - self.smooth_loss)
        return replace(self, total=self.total + loss * count, smooth_loss=smooth, grad_norm=norm)

    def with_numbers_of(self, other: "Counters") -> "Counters":
        """Copy the losses and the gradient norm from other counters."""
        return replace(self, total=other.total, smooth_loss=other.smooth_loss, grad_norm=other.grad_norm)

    def after_evaluation(self, loss: float | None) -> "Counters":
        """Return the counters after an evaluation with this validation loss."""
        new = replace(self, evaluated=self.step, validation_loss=loss)
        if loss is None:
            return new
        if self.best_loss is None or loss < self.best_loss:
            return replace(new, best_loss=loss, since_best=0)
        return replace(new, since_best=self.since_best + 1)


def total_steps(epochs: int | None, iterations: int | None, n_batches: int) -> int:
    """Return the number of steps of a run, or sys.maxsize if nothing limits it."""
    return min(iterations or sys.maxsize, (epochs or sys.maxsize) * n_batches)


@dataclass(frozen=True)
class Limits:
    """When a run evaluates and ends; see `Trainer.run`."""

    epochs: int | None
    iterations: int | None
    batch_size: int
    evaluate_every: int | None
    patience: int | None

    def __post_init__(self) -> None:
        if self.epochs is None and self.iterations is None:
            raise ValueError("`epochs` or `iterations` is required")
        for name, value in vars(self).items():
            if value is not None:
                integer(name, value)

    def evaluates(self, at: Counters, n_batches: int) -> bool:
        """Return whether an evaluation is due."""
        end_of_epoch = at.batch == n_batches
        due = end_of_epoch if self.evaluate_every is None else at.step % self.evaluate_every == 0
        last = at.step == self.iterations or (end_of_epoch and at.epoch == self.epochs)
        return at.evaluated != at.step and (due or last)

    def ended(self, at: Counters) -> bool:
        """Return whether the run is over."""
        out_of_patience = self.patience is not None and at.since_best >= self.patience
        past = self.epochs is not None and at.epoch > self.epochs
        return out_of_patience or past or (self.iterations is not None and at.step >= self.iterations)

    def ended_after_epoch(self, at: Counters) -> bool:
        """Return whether the run is over once the current epoch has no batches left."""
        return self.ended(at) or (self.epochs is not None and at.epoch >= self.epochs)
