"""Inference on many examples in passes of a bounded size."""

from collections.abc import Sequence
from typing import Any

from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.models.recurrent import Recurrent

_MOST_ELEMENTS = 2**24  # of a layer's outputs in one pass: 64 MiB in float32


def batch_slices(m: int, n_steps: int, stack: Recurrent, batch_size: int | None) -> list[slice]:
    """Return slices of at most `batch_size` of m examples, at least one; with None, of a bounded number of elements."""
    if batch_size is None:
        width = max(sum(one.hidden_size for one in layer) for layer in stack.layers)
        batch_size = max(1, _MOST_ELEMENTS // (width * max(n_steps, 1)))
    size = integer("batch_size", batch_size)
    return [slice(start, min(start + size, m)) for start in range(0, max(m, 1), size)]


def join(xp: Any, parts: Sequence[Array]) -> Array:
    """Concatenate the results (n, m, ...) of several passes along the examples."""
    return parts[0] if len(parts) == 1 else xp.concat(list(parts), axis=1)
