"""A product of two matrices on the tile, for what stands on the recurrent layers.

NumPy's BLAS is as fast, but its threads keep spinning for a while after every call, on the cores that the team's
threads need for the next pass: a training step of a character model took twice as long. Small products, for which a
BLAS wakes no threads, and very large ones, in which its threads are worth that, stay with it.
"""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.engines.cpu.codegen.gemm import K_BLOCK, n_vectors, panel_vectors
from rnnx.engines.cpu.descriptor.builder import address, moves, product
from rnnx.engines.cpu.runtime.buffer_pool import empty, workspace

_SMALLEST = 1 << 18  # multiplications
_LARGEST = 1 << 30

_Product = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 14)
_Copy = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)


@lru_cache(maxsize=4)
def _functions(dtype: np.dtype) -> tuple[int, int, Any, Any]:
    """Vectors of a panel, bytes of a vector, and the functions `product` and `copy`."""
    n_v = panel_vectors(1)
    size = dtype.itemsize * (K_BLOCK // n_vectors(dtype, K_BLOCK))
    return n_v, size, _Product(product(dtype, n_v)), _Copy(moves(dtype)["copy"])


def matmul(xp: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """See `rnnx.engines`."""
    (rows, n_k), columns = a.shape, b.shape[1]
    if a.dtype != b.dtype or not _SMALLEST < rows * n_k * columns <= _LARGEST:
        return a @ b if bias is None else a @ b + bias
    dtype, item = a.dtype, a.itemsize
    if min(a.strides) < 0 or not a.flags.aligned:
        a = np.array(a, order="C")
    b = np.ascontiguousarray(b)
    _, size, run, _ = _functions(dtype)
    vectors, tail = n_vectors(dtype, columns), columns % (size // item)
    out = empty((rows, columns), dtype)
    init = np.zeros(columns, dtype) if bias is None else np.ascontiguousarray(bias, dtype)
    with workspace(n_k * vectors * size) as packed:
        _pack(b, packed, vectors, tail)
        there, ld = address(out), columns * item
        run(
            *(packed, vectors, 0, vectors, n_k, address(a), *a.strides, rows),
            *(address(init), 0, there, ld, tail),
        )
    return out


def _pack(b: np.ndarray, packed: int, vectors: int, tail: int) -> None:
    """The rows of b in blocks and panels; see `gemm` for their layout."""
    n_v, size, _, copy = _functions(b.dtype)
    n_k, ld, source = b.shape[0], b.strides[0], address(b)
    for k0 in range(0, n_k, K_BLOCK):
        k = min(K_BLOCK, n_k - k0)
        for panel in range(0, vectors, n_v):
            width = min(n_v, vectors - panel)
            last = tail if panel + width == vectors else 0
            to = packed + (k0 * vectors + panel * k) * size
            copy(source + k0 * ld + panel * size, ld, k, width, last, to, width * size)
