"""Conversions between the public and the internal layout, and the masks of sequence lengths.

Public arrays are (n, m, T): features, examples, time. Internal sequences are (T, m, n): time-major, one row per
example. The public array is the transpose of the internal one: a view in Fortran order.

Dimensions: T steps, m examples, n features.
"""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


def to_time_major(xp: Any, x: Array, *, own: bool = False) -> Array:
    """Transpose (n, m, T) to (T, m, n), or (m, T) to (T, m), in C order.

    If `x` is in Fortran order the result is a view, or a copy with `own`.
    """
    view = xp.permute_dims(x, tuple(range(x.ndim))[::-1])
    result = ns.contiguous(xp, view)
    return ns.owned_copy(xp, result) if own and ns.shares_memory(result, view) else result


def to_public(xp: Any, x: Array) -> Array:
    """Transpose (T, m, n) to (n, m, T); a view."""
    return xp.permute_dims(x, (2, 1, 0))


def valid_steps(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Return the mask of sequence lengths, boolean (T, m, 1): whether t < lengths[j]."""
    steps = xp.arange(n_steps, dtype=lengths.dtype, device=ns.device(lengths))
    return xp.expand_dims(xp.expand_dims(steps, axis=1) < xp.expand_dims(lengths, axis=0), axis=2)


def valid_examples(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Return the mask of sequence lengths as (m, T)."""
    return xp.matrix_transpose(valid_steps(xp, lengths, n_steps)[:, :, 0])


def zero_past_end(xp: Any, a: Array, lengths: Array | None) -> Array:
    """Set a public array (n, m, T) to zero past each length; `lengths` is (m,), or None for full lengths."""
    if lengths is None:
        return a
    return xp.where(to_public(xp, valid_steps(xp, lengths, a.shape[2])), a, xp.zeros_like(a))
