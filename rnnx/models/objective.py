"""The loss of a model of sequences, the weights of its batches, and the names of its classes."""

from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.words import shown
from rnnx.losses import LOSSES, Loss, as_loss


def chosen_loss(loss: Any, default: str, kinds: tuple[str, ...], per_step: bool, size: int, size_name: str) -> Loss:
    """Return the loss that the arguments of a model choose."""
    chosen = as_loss(default if loss is None else loss, kinds)
    if not chosen.by_step and not per_step:
        raise ValueError(f"the loss {chosen!r} needs `per_step` = True")
    if chosen.n_outputs(2) == 1 and size != 2:
        raise ValueError(f"the loss {chosen!r} needs `{size_name}` = 2; got {size}")
    return chosen


def loss_config(loss: Loss, default: str) -> dict[str, Any]:
    """Return what the config of a model says of its loss: nothing of the default; a loss of the user's own as it is."""
    if loss.config == as_loss(default).config:
        return {}
    return {"loss": loss.config if type(loss) in LOSSES.values() else loss}


def total_weight(batch: Any, per_step: bool) -> float:
    """Return the sum of the weights of a batch, of examples or of steps within the lengths."""
    weights, lengths = batch.weights, batch.lengths
    weights = np.asarray(weights) if isinstance(weights, list | tuple | np.ndarray) else ns.to_host(weights)
    if not per_step:
        return float(np.sum(weights))
    n_steps = batch.inputs.shape[-1]
    if weights.ndim == 1:
        return float(np.sum(weights * (n_steps if lengths is None else np.asarray(lengths))))
    if lengths is not None:
        weights = weights * (np.arange(n_steps) < np.asarray(lengths)[:, None])
    return float(np.sum(weights))


def checked_classes(classes: Any, n: int) -> list[Any]:
    """Return the names of n classes as plain values."""
    if isinstance(classes, str) or not hasattr(classes, "__len__"):
        raise TypeError(f"`classes` must be a list of names; got {shown(classes)}")
    names = [name.item() if isinstance(name, np.generic) else name for name in classes]
    if len(names) != n or len(set(names)) != n:
        raise ValueError(f"`classes` must be `num_classes` = {n} different names; got {names!r:.200}")
    if not all(isinstance(name, str | int | bool) for name in names) or len(set(map(type, names))) > 1:
        raise TypeError(f"`classes` must be all text, all integers or all booleans; got {names!r:.200}")
    return names
