"""Checks of losses, gradients and datasets. Their messages name the likely cause of NaN and infinity."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods
from rnnx._core.inputs import not_finite as first_not_finite


def check_finite(what: str, value: float, step: int, batch: Any = None, parameters: Mapping[str, Array] = {}) -> None:
    """Raise unless a loss or a gradient norm is finite."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} {value} at step {step}; {cause(batch, parameters, step)}")


def all_finite(arrays: Mapping[str, Array]) -> bool:
    """Return whether all elements of all arrays are finite."""
    xp, _ = ns.common_namespace(arrays)
    return bool(ns.to_host(xp.all(xp.stack([xp.all(xp.isfinite(a)) for a in arrays.values()]))))


def cause(batch: Any, parameters: Mapping[str, Array], step: int | None = None) -> str:
    """Return the likely cause of a loss that is not finite; `step` is the number of the training step, if it is one."""
    if found := not_finite(batch):
        return found
    if step is not None and step > 1:
        return "a smaller learning rate may help"
    for name, p in parameters.items():
        if ns.is_on_host(p) and not np.isfinite(p).all():
            return f"the parameter `{name}` is not finite"
    return "inputs or parameters are too large"


def check_model(name: str, model: Any) -> None:
    """Raise unless this is a model."""
    check_methods(name, model, "a model of rnnx.models, or have its methods", "parameters", "check", "evaluate_step")


def check_kind(name: str, dataset: Any) -> None:
    """Raise unless this is a dataset."""
    check_methods(name, dataset, "a dataset of rnnx.data, or have its methods", "batches", "n_batches", "__len__")


def check_dataset(name: str, dataset: Any, model: Any, batch_size: int) -> None:
    """Raise unless a dataset has at least one term of the loss, and all values that can be read are finite."""
    if not dataset.n_batches(batch_size) or not any(model.count(batch) for batch in dataset.batches(batch_size)):
        raise ValueError(f"`{name}` must hold at least one example" + (" of at least one step" if len(dataset) else ""))
    if found := not_finite(dataset, model):
        raise FloatingPointError(f"`{name}` is not usable: {found}")


def not_finite(data: Any, model: Any = None) -> str:
    """Return where the inputs or targets of a batch or of `Examples` are not finite; "" if they are, or unknown.

    Nor are numbers that are too large for the dtype of a model. Values past an example's length do not count.
    """
    most = getattr(model, "largest", math.inf)  # a model of the user's own may not say
    targets = getattr(data, "targets", None)
    arrays = {"inputs": getattr(data, "inputs", None)}
    arrays |= {f"targets[{k!r}]": a for k, a in targets.items()} if isinstance(targets, dict) else {"targets": targets}
    arrays |= {f"extra[{name!r}]": a for name, a in (getattr(data, "extra", None) or {}).items()}
    for name, a in arrays.items():
        by_step = getattr(a, "ndim", 0) == 3 or name.startswith("extra")
        if found := first_not_finite(name, a, data.lengths if by_step else None, most):
            return found
    return ""
