"""What models share that cut batches into parts: how long a part is, how many terms it has, and its share of the loss.

On a device, lengths and weights stay there, and so do the numbers that depend on them. Dimensions: m examples, T steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer_vector
from rnnx._core.layout import valid_examples


def steps_of_part(lengths: Array | None, n_steps: int) -> slice:
    """Return the steps of a part: up to the end of its longest example, but at least one.

    With lengths on a device, these are all steps of the batch, so that parts have the same shape in every batch.
    """
    if lengths is None or not ns.is_on_host(lengths):
        return slice(0, n_steps)
    return slice(0, max(int(lengths.max(initial=1)), 1))


def lengths_within(lengths: Array, steps: slice) -> Array:
    """Return how many of these steps are within each length."""
    xp, after = ns.namespace(lengths), lengths - steps.start
    return xp.minimum(xp.maximum(after, xp.zeros_like(after)), xp.full_like(after, steps.stop - steps.start))


def number_of_steps(lengths: Any) -> Any:
    """Return the sum of the lengths; an array of shape () if they are on a device."""
    if isinstance(lengths, Sequence):
        return int(np.sum(lengths))
    return int(lengths.sum()) if ns.is_on_host(lengths) else ns.namespace(lengths).sum(lengths)


def total_weight(weights: Any, lengths: Any, n_steps: int | None) -> Any:
    """Return the sum of the weights of examples, (m,), or of steps within the lengths, (m, T).

    It is a float, or an array of shape () if the weights are on a device. `n_steps` is T, or None for losses with one
    term for each example.
    """
    given = np.asarray(weights) if isinstance(weights, Sequence) else weights
    xp, device = ns.common_namespace({"weights": given})
    wide = ns.astype(xp, given, xp.float64)
    if n_steps is not None:
        ends = None if lengths is None else integer_vector(xp, device, "lengths", lengths)
        if wide.ndim == 1:
            wide = wide * (n_steps if ends is None else ns.astype(xp, ends, wide.dtype))
        elif ends is not None:
            wide = xp.where(valid_examples(xp, ends, n_steps), wide, xp.zeros_like(wide))
    return ns.number(xp.sum(wide))


def fetched(terms: Any) -> float:
    """Return a number of terms, or the sum of their weights, as a number of Python."""
    found: float = ns.to_host(terms).item() if _on_device(terms) else terms
    return found


def in_share(loss: Any, dz: Array, terms: Any, whole: Any) -> tuple[Any, Array]:
    """Return the loss of a part and its gradient, times its share of the terms of the whole batch."""
    if not (_on_device(terms) or _on_device(whole)):
        share = terms / (whole or 1)
        return loss * share, dz * share
    xp = ns.namespace(dz)
    terms, whole = (ns.astype(xp, n, xp.float64) if _on_device(n) else n for n in (terms, whole))
    if _on_device(whole):
        whole = xp.where(whole > 0, whole, xp.ones_like(whole))
    share = ns.astype(xp, terms / whole, dz.dtype)
    return loss * share, dz * share


def _on_device(number: Any) -> bool:
    return hasattr(number, "shape") and not ns.is_on_host(number)
