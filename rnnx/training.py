"""The training loop: it yields what happened and prints nothing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnnx._namespace import Array
from rnnx.models import CharModel, Parameters
from rnnx.optim import clip_by_global_norm
from rnnx.text import Lines, Windows

Dataset = Lines | Windows


@dataclass(frozen=True)
class Progress:
    """One optimizer step, or (with `validation_loss`) the end of an epoch.

    Attributes
    ----------
    step, epoch : int
        Steps done; the epoch under way, from 1.
    loss : float
        Nats per character: of this step's batch or, at the end of an epoch, the mean over it.
    smooth_loss : float
        The classic scripts' smoothed loss, 0.999 of the old value and 0.001 of the new one, per character,
        from log(vocab_size) on.
    validation_loss : float or None
    """

    step: int
    epoch: int
    loss: float
    smooth_loss: float
    validation_loss: float | None = None


@dataclass
class Trainer:
    """The state of a training run. Between two items of `run` it is always consistent.

    Parameters
    ----------
    model : CharModel
    parameters : dict of str to array
    optimizer : object
        With ``init`` and ``update`` as the classes in `rnnx.optim`.
    clip_norm : float or None
        Largest global norm of the gradients.
    seed : int
        For the order of the batches.
    """

    model: CharModel
    parameters: Parameters
    optimizer: Any
    clip_norm: float | None = 5.0
    seed: int = 0
    step: int = 0
    epoch: int = 0
    smooth_loss: float = field(default=math.nan)
    optimizer_state: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer_state = self.optimizer_state or self.optimizer.init(self.parameters)
        if math.isnan(self.smooth_loss):
            self.smooth_loss = math.log(self.model.config.vocab_size)

    def run(self, train: Dataset, validation: Dataset, *, epochs: int, batch_size: int) -> Iterator[Progress]:
        """Train for some epochs.

        Raises
        ------
        FloatingPointError
            If the loss is no longer finite; the parameters are those before that step.
        """
        for _ in range(epochs):
            rng = np.random.default_rng([self.seed, self.epoch])
            self.epoch += 1
            total, count = 0.0, 0
            for batch in train.batches(batch_size, rng):
                loss, gradients = self.model.loss_and_gradients(self.parameters, batch)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} at step {self.step + 1}; a smaller learning rate may help"
                    )
                self._update(loss, gradients)
                characters = int(batch.lengths.sum())
                total, count = total + loss * characters, count + characters
                yield Progress(self.step, self.epoch, loss, self.smooth_loss)
            mean = total / max(count, 1)
            yield Progress(self.step, self.epoch, mean, self.smooth_loss, self.evaluate(validation, batch_size))

    def _update(self, loss: float, gradients: Parameters) -> None:
        gradients = {key: gradients[key] for key in ("d" + name for name in self.parameters)}
        if self.clip_norm is not None:
            gradients, _ = clip_by_global_norm(gradients, self.clip_norm)
        updated = self.optimizer.update(self.parameters, gradients, self.optimizer_state, self.step + 1)
        smooth = 0.999 * self.smooth_loss + 0.001 * loss
        # One statement, so that an interrupt leaves all of the step or none of it.
        (self.parameters, self.optimizer_state), self.step, self.smooth_loss = updated, self.step + 1, smooth

    def evaluate(self, dataset: Dataset, batch_size: int) -> float:
        """Mean loss per character over a dataset."""
        total, count = 0.0, 0
        for batch in dataset.batches(batch_size):
            characters = int(batch.lengths.sum())
            total, count = total + self.model.loss(self.parameters, batch) * characters, count + characters
        return total / max(count, 1)
