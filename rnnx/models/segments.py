"""Long sequences in parts."""

import math
from typing import Any

import numpy as np

from rnnx.data import Batch


def segments(batch: Any, length: int) -> list[tuple[int, Batch]]:
    """Parts of a batch, each with the step at which it begins."""
    parts, n_steps = [], batch.inputs.shape[-1]
    for t in range(0, n_steps, length):
        lengths = None if batch.lengths is None else np.clip(np.asarray(batch.lengths) - t, 0, None)
        steps = slice(t, min(t + length, n_steps))
        inputs, targets = batch.inputs[..., steps], batch.targets[..., steps]
        if lengths is not None:
            lengths = np.minimum(lengths, inputs.shape[-1])
        parts.append((t, Batch(inputs, targets, lengths)))
    return parts


def square_root_segments(n_steps: int) -> int:
    """The `segment_length` that needs least memory for a sequence of so many steps."""
    return max(1, math.isqrt(max(n_steps - 1, 0)) + 1)
