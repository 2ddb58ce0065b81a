"""Products with block-diagonal recurrent weights, on arrays of any namespace.

Dimensions: H heads of d units, n = H d, G gates, r rows. The blocks of G gates are stacked in a matrix (G n, d).
"""

from typing import Any

from rnnx._core.arrays import Array


def times_transpose(xp: Any, s: Array, transposed: Array, heads: int) -> Array:
    """Return s W^T (r, G n) for s (r, n), given W^T (d, G n)."""
    w = xp.matrix_transpose(transposed)
    return _joined(xp, _by_head(xp, s, w, heads) @ _by_head(xp, transposed, w, heads), w)


def times(xp: Any, dz: Array, w: Array, heads: int) -> Array:
    """Return dz W (r, n) for dz (r, G n)."""
    if heads == 1:
        return dz @ w
    blocks = _by_head(xp, xp.matrix_transpose(w), w, heads)
    return _joined(xp, _by_head(xp, dz, w, heads) @ xp.matrix_transpose(blocks), w)


def gradient(xp: Any, dz: Array, s: Array, w: Array, heads: int) -> Array:
    """Return the gradient of W: the blocks of dz^T s on the diagonal."""
    if heads == 1:
        return xp.matrix_transpose(dz) @ s
    blocks = xp.matrix_transpose(_by_head(xp, s, w, heads)) @ _by_head(xp, dz, w, heads)
    return xp.matrix_transpose(_joined(xp, blocks, w))


def _by_head(xp: Any, a: Array, w: Array, heads: int) -> Array:
    """Convert (r, G n) to (H, r, G d)."""
    (rows, columns), d = a.shape, w.shape[1]
    parts = xp.reshape(a, (rows, columns // (heads * d), heads, d))
    return xp.reshape(xp.permute_dims(parts, (2, 0, 1, 3)), (heads, rows, columns // heads))


def _joined(xp: Any, a: Array, w: Array) -> Array:
    """Convert (H, r, G d) to (r, G n)."""
    heads, rows, columns = a.shape
    parts = xp.reshape(a, (heads, rows, columns // w.shape[1], w.shape[1]))
    return xp.reshape(xp.permute_dims(parts, (1, 2, 0, 3)), (rows, heads * columns))
