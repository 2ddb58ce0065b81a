"""Public layout <-> internal layout.

Public arrays are (n, m, T_x): features, examples, time. Inside, sequences are (T, m, n): time-major, one row
an example, so the public array is the transpose of the internal one, a view in Fortran order.

Dimensions: T steps, m examples, n features.
"""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


def to_time_major(xp: Any, x: Array, *, own: bool = False) -> Array:
    """(n, m, T) to (T, m, n), or (m, T) to (T, m), in C order; no copy if `x` is in Fortran order, unless it has to be
    our own.
    """
    view = xp.permute_dims(x, tuple(range(x.ndim))[::-1])
    result = ns.contiguous(xp, view)
    return ns.owned_copy(xp, result) if own and result is view else result


def to_public(xp: Any, x: Array) -> Array:
    """(T, m, n) to (n, m, T), a view."""
    return xp.permute_dims(x, (2, 1, 0))


def valid_steps(xp: Any, lengths: Array, n_steps: int) -> Array:
    """Boolean (T, m, 1): whether step t of example j lies before the example's end."""
    steps = xp.arange(n_steps, dtype=lengths.dtype, device=ns.device(lengths))
    return xp.expand_dims(xp.expand_dims(steps, axis=1) < xp.expand_dims(lengths, axis=0), axis=2)


def valid_examples(xp: Any, lengths: Array, n_steps: int) -> Array:
    """The same mask, of shape (m, T)."""
    return xp.matrix_transpose(valid_steps(xp, lengths, n_steps)[:, :, 0])


def zero_past_end(xp: Any, a: Array, lengths: Array | None) -> Array:
    """A public array (n, m, T), zero past each example's end; `lengths` is (m,), or None for full length."""
    if lengths is None:
        return a
    return xp.where(to_public(xp, valid_steps(xp, lengths, a.shape[2])), a, xp.zeros_like(a))
