"""Callbacks of `Trainer.fit` that log to TensorBoard, MLflow or Weights & Biases, which are imported when used."""

import importlib
from typing import Any

from rnnx._core.checks import integer


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this callback needs {package}: pip install {package}") from error


class _Logger:
    """Logs evaluations, and every `every`-th step."""

    def __init__(self, every: int) -> None:
        self.every = integer("every", every)

    def __call__(self, _trainer: Any, progress: Any) -> None:
        if progress.evaluation or progress.step % self.every == 0:
            names = ("validation_loss",) if progress.evaluation else ("loss", "learning_rate", "grad_norm")
            values = {name: getattr(progress, name) for name in names}
            self.log({name: float(v) for name, v in values.items() if v is not None}, progress.step)

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers of a step."""
        raise NotImplementedError


class TensorBoardLogger(_Logger):
    """Logs to TensorBoard.

    Parameters
    ----------
    writer : str, Path or SummaryWriter
        A folder, or a writer of torch.utils.tensorboard or tensorboardX.
    every : int
        Steps between two losses that are logged; each one fetches it from the device. Evaluations are always logged.

    See Also
    --------
    MLflowLogger, WandbLogger, Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.optim import SGD
    >>> from rnnx.training import TensorBoardLogger, Trainer
    >>> class Writer:  # in place of torch.utils.tensorboard.SummaryWriter("runs/one")
    ...     def add_scalar(self, name, value, step):
    ...         if name == "validation_loss":
    ...             print(f"{name} after step {step}")
    >>> data = Examples(np.ones((1, 8, 5)), np.ones((1, 8)))
    >>> trainer = Trainer(SequenceRegressor(1, 4, rng=0), SGD(0.1))
    >>> _ = trainer.fit(data, data, epochs=2, batch_size=4, callbacks=[TensorBoardLogger(Writer())])
    validation_loss after step 2
    validation_loss after step 4
    """

    def __init__(self, writer: Any, *, every: int = 10) -> None:
        super().__init__(every)
        if not hasattr(writer, "add_scalar"):
            writer = _module("tensorboardX", "tensorboardX").SummaryWriter(str(writer))
        self.writer = writer

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers of a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


class MLflowLogger(_Logger):
    """Logs to the active run of MLflow.

    Parameters
    ----------
    every : int
        As for `TensorBoardLogger`.

    See Also
    --------
    TensorBoardLogger, WandbLogger, Trainer

    Examples
    --------
    >>> import mlflow  # doctest: +SKIP
    >>> with mlflow.start_run():  # doctest: +SKIP
    ...     trainer.fit(train, validation, epochs=10, callbacks=[MLflowLogger(every=100)])
    """

    def __init__(self, *, every: int = 10) -> None:
        super().__init__(every)
        self._mlflow = _module("mlflow", "mlflow")

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers of a step."""
        if values:
            self._mlflow.log_metrics(values, step=step)


class WandbLogger(_Logger):
    """Logs to Weights & Biases.

    Parameters
    ----------
    run : object, optional
        What ``wandb.init()`` returns; default: a new run.
    every : int
        As for `TensorBoardLogger`.

    See Also
    --------
    TensorBoardLogger, MLflowLogger, Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.optim import SGD
    >>> from rnnx.training import Trainer, WandbLogger
    >>> class Run:  # in place of wandb.init(project="...")
    ...     def log(self, values, step):
    ...         print(step, sorted(values))
    >>> data = Examples(np.ones((1, 8, 5)), np.ones((1, 8)))
    >>> trainer = Trainer(SequenceRegressor(1, 4, rng=0), SGD(0.1))
    >>> _ = trainer.fit(data, epochs=2, batch_size=4, callbacks=[WandbLogger(Run(), every=2)])
    2 ['grad_norm', 'learning_rate', 'loss']
    4 ['grad_norm', 'learning_rate', 'loss']
    """

    def __init__(self, run: Any = None, *, every: int = 10) -> None:
        super().__init__(every)
        self.run = _module("wandb", "wandb").init() if run is None else run

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers of a step."""
        if values:
            self.run.log(values, step=step)
