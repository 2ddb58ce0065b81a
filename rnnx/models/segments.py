"""Long sequences in segments, whose states are recomputed in the backward pass."""

import math
from typing import Any

import numpy as np

from rnnx.data import Batch


def segments(batch: Any, length: int) -> list[tuple[int, Batch]]:
    """Split a batch into segments; return each with its first step."""
    parts, n_steps = [], batch.inputs.shape[-1]
    for t in range(0, n_steps, length):
        steps = slice(t, min(t + length, n_steps))
        lengths = None if batch.lengths is None else np.clip(np.asarray(batch.lengths) - t, 0, steps.stop - t)
        parts.append((t, Batch(batch.inputs[..., steps], batch.targets[..., steps], lengths)))
    return parts


def square_root_segments(n_steps: int) -> int:
    """Return the `segment_length` that needs least memory for sequences of n_steps steps."""
    return max(1, math.isqrt(max(n_steps - 1, 0)) + 1)
