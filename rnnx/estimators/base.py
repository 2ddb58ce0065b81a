"""The parameters that all estimators have, and training with them."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from rnnx._core.checks import choice, real
from rnnx._core.devices import by_device
from rnnx.models import Model
from rnnx.optim import OPTIMIZERS
from rnnx.training import Progress, Trainer


@dataclass(eq=False, repr=False)
class Estimator(BaseEstimator):
    """The base of the estimators. As scikit-learn wants it, `fit` checks the parameters, and `__init__` stores them."""

    hidden_size: Any = 32
    num_layers: int = 1
    _: KW_ONLY
    cell: Any = "lstm"
    bidirectional: bool = False
    dropout: float = 0.0
    loss: Any = None
    optimizer: Any = "adam"
    learning_rate: float = 0.005
    epochs: int = 50
    batch_size: int = 32
    clip_norm: float | None = 5.0
    patience: int | None = None
    validation_fraction: float = 0.1
    dtype: str = "float32"
    device: str = "cpu"
    random_state: Any = None
    progress_bar: bool = False

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _options(self, seed: int) -> dict[str, Any]:
        """Return the options of the model."""
        names = ("cell", "dropout", "dtype", "num_layers") + (("loss",) if self.loss is not None else ())
        return {"rng": seed, "xp": by_device(self.device)} | {name: getattr(self, name) for name in names}

    def _held_out(self, n: int) -> int:
        """Return how many of n examples or steps are held out for validation."""
        part = real("validation_fraction", self.validation_fraction, "(0, 1)")
        return 0 if self.patience is None else max(1, round(part * n))

    def _train(self, model: Model, train: Any, held: Any, seed: int) -> None:
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            optimizer = OPTIMIZERS[choice("optimizer", optimizer, OPTIMIZERS)](self.learning_rate)
        history: list[dict[str, Any]] = []

        def record(_trainer: Trainer, progress: Progress) -> None:
            if progress.evaluation:
                history.append(progress.as_dict())

        Trainer(model, optimizer, clip_norm=self.clip_norm, seed=seed).fit(
            train,
            held,
            epochs=self.epochs,
            batch_size=self.batch_size,
            patience=self.patience,
            restore_best=held is not None,
            progress_bar=self.progress_bar,
            callbacks=[record],
        )
        self.model_: Any = model
        self.history_ = history


def not_masked(name: str, values: Any) -> None:
    """Raise TypeError for a masked array: scikit-learn would drop its mask."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"`{name}` must not be a masked array, whose mask would be lost: fill the missing values first")


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise ValueError unless all numbers are finite."""
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        place = tuple(np.argwhere(~finite)[0].tolist())
        raise ValueError(f"`{name}` must not hold NaN or infinity; got {values[place]} at index {place}")
