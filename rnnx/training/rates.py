"""A range test of learning rates."""

import copy
import math
from typing import Any, NamedTuple

import numpy as np

from rnnx._core.checks import integer, real
from rnnx.optim import Adam
from rnnx.training.trainer import Trainer


class LearningRates(NamedTuple):
    """The result of `learning_rate_range`: the rates that were tried, the losses, and a rate to begin with.

    See Also
    --------
    learning_rate_range

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.training import learning_rate_range
    >>> data = Examples(np.ones((1, 8, 5)), np.ones((1, 8)))
    >>> found = learning_rate_range(SequenceRegressor(1, 4, rng=0), data, low=0.001, high=0.1, steps=11)
    >>> found.rates[[0, 5, 10]].round(4).tolist(), found.losses.shape  # a constant factor from rate to rate
    ([0.001, 0.01, 0.1], (11,))
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float


def learning_rate_range(
    model: Any,
    train: Any,
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
    optimizer: Any = Adam,
    seed: int = 0,
) -> LearningRates:
    """Train a copy of a model with a learning rate that grows from step to step, until the loss does.

    Source: L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186.

    Parameters
    ----------
    model : Model
        It is not changed.
    train : Dataset
    low, high : float
        The first and the last learning rate; they grow by a constant factor.
    steps : int
    batch_size : int
    optimizer : callable
        Makes an optimizer from a learning rate.
    seed : int
        Seed for the order of batches and for dropout.

    Returns
    -------
    LearningRates
        The suggestion is where the smoothed loss falls fastest.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, or the dataset does not fit the model.

    See Also
    --------
    LearningRates, Trainer, rnnx.optim.LinearWarmup

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.training import learning_rate_range
    >>> x = np.random.default_rng(0).standard_normal((1, 64, 6)).astype("float32")
    >>> data = Examples(x, x.sum(axis=2))
    >>> found = learning_rate_range(SequenceRegressor(1, 8, rng=0), data, steps=60)
    >>> 1e-4 < found.suggestion < 1.0, len(found.rates) == len(found.losses)
    (True, True)
    """
    low, high = real("low", low, "(0, inf)"), real("high", high, "(0, inf)")
    if low >= high:
        raise ValueError(f"`high` must be above `low` = {low}; got {high}")
    factor = (high / low) ** (1 / max(integer("steps", steps, 10) - 1, 1))
    trainer = Trainer(copy.deepcopy(model), optimizer(lambda t: low * factor ** (t - 1)), seed=seed)
    losses: list[float] = []
    try:
        for progress in trainer.run(train, iterations=steps, batch_size=batch_size):
            if not progress.evaluation:
                losses.append(float(progress.loss))
            if len(losses) > 10 and losses[-1] > 4 * min(losses) + 1e-12:
                break
    except FloatingPointError:
        if len(losses) < 10:
            raise
    rates, values = low * factor ** np.arange(len(losses)), np.array(losses)
    return LearningRates(rates, values, _steepest(rates, values))


def _steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    smooth, value = [], losses[0]
    for k, loss in enumerate(losses):
        value += (loss - value) * max(0.2, 1 / (k + 1))
        smooth.append(value)
    stop = max(int(np.argmin(smooth)), 2)
    slopes = np.gradient(np.array(smooth[: stop + 1]), math.log(rates[1] / rates[0]))
    return float(rates[int(np.argmin(slopes))])
