"""Losses of models, each with its gradient and what the outputs predict; and a base for losses of your own."""

from typing import Any

from rnnx._core.checks import choice
from rnnx._core.words import shown
from rnnx.losses.classification import BinaryCrossEntropy, CrossEntropy, MultiLabel
from rnnx.losses.likelihoods import Gaussian, Poisson, StudentT
from rnnx.losses.loss import Loss
from rnnx.losses.regression import ESR, NSE, AbsoluteError, Huber, Quantile, SquaredError

__all__ = [
    "ESR",
    "LOSSES",
    "NSE",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Gaussian",
    "Huber",
    "Loss",
    "MultiLabel",
    "Poisson",
    "Quantile",
    "SquaredError",
    "StudentT",
    "as_loss",
]

# The losses by the names that models take and checkpoints hold.
LOSSES: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        SquaredError,
        AbsoluteError,
        Huber,
        Quantile,
        Gaussian,
        StudentT,
        Poisson,
        NSE,
        ESR,
        CrossEntropy,
        BinaryCrossEntropy,
        MultiLabel,
    )
}


def as_loss(loss: Any, kinds: tuple[str, ...] = ("numbers", "labels", "classes")) -> Loss:
    """Return a loss, given by its name, its config, or itself.

    Parameters
    ----------
    loss : str, dict or Loss
    kinds : tuple of str
        What its targets may be; see `Loss`.

    Raises
    ------
    ValueError, TypeError
        If it is none of them, or its targets are of another kind.

    See Also
    --------
    Loss, LOSSES

    Examples
    --------
    >>> from rnnx.losses import as_loss
    >>> loss = as_loss("huber")
    >>> loss.config
    {'name': 'huber', 'delta': 1.0}
    >>> as_loss({"name": "huber", "delta": 0.5})  # from the config in a checkpoint
    Huber(delta=0.5)
    """
    possible = [name for name, one in LOSSES.items() if one.kind in kinds]
    if isinstance(loss, dict) and isinstance(loss.get("name"), str):
        options = {key: value for key, value in loss.items() if key != "name"}
        loss = LOSSES[choice("loss", loss["name"], possible)](**options)
    elif isinstance(loss, str):
        loss = LOSSES[choice("loss", loss, possible)]()
    if not isinstance(loss, Loss):
        hint = "; pass an instance of the class" if isinstance(loss, type) and issubclass(loss, Loss) else ""
        raise TypeError(f"`loss` must be a rnnx.losses.Loss or one of {possible}; got {shown(loss)}{hint}")
    if loss.kind not in kinds:
        raise ValueError(f"`loss` must be for {' or '.join(kinds)}, such as {possible}; got {loss!r}")
    return loss
