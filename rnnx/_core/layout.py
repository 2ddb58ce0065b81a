"""Conversions between the public and the internal layout, and masks of sequence lengths.

Public arrays are (n, m, T): features, examples, time. Internal sequences are (T, m, n): time-major, one row per
example. A public result is usually a view of an internal array, in Fortran order.
"""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


def to_time_major(xp: Any, x: Array, *, own: bool = False) -> Array:
    """Transpose (n, m, T) to (T, m, n), or (m, T) to (T, m), in C order; with `own`, never return a view."""
    return ns.contiguous(xp, ns.reversed_axes(xp, x), own=own)


def to_public(xp: Any, x: Array) -> Array:
    """Transpose (T, m, n) to (n, m, T), as a view."""
    return xp.permute_dims(x, (2, 1, 0))


def valid_steps(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Return the boolean mask t < lengths[j], shape (T, m, 1)."""
    steps = xp.arange(n_steps, dtype=lengths.dtype, device=ns.device(lengths))
    return xp.expand_dims(xp.expand_dims(steps, axis=1) < xp.expand_dims(lengths, axis=0), axis=2)


def valid_examples(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Return the boolean mask t < lengths[j], shape (m, T)."""
    return xp.matrix_transpose(valid_steps(xp, lengths, n_steps)[:, :, 0])


def zero_past_end(xp: Any, a: Array, lengths: Array | None) -> Array:
    """Set a public array (n, m, T) to zero past each length; None means full lengths."""
    if lengths is None:
        return a
    return xp.where(to_public(xp, valid_steps(xp, lengths, a.shape[2])), a, xp.zeros_like(a))
