"""The matrix product of dense layers, with the engine's own GEMM.

NumPy's BLAS is as fast, but its threads spin for a while after each call, on the cores that the thread pool needs next:
a training step of a character model took twice as long. Small products, for which a BLAS wakes no threads, and very
large ones, where its threads pay off, still use it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx._core.underflow import ignore_underflow
from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.gemm import KC, MC, n_vectors
from rnnx.engines.cpu.codegen.ir import lanes, machine
from rnnx.engines.cpu.descriptor.builder import copies, product
from rnnx.engines.cpu.runtime.buffer_pool import address, empty, give_back_workspace, take_workspace
from rnnx.engines.cpu.runtime.tuning import panel_vectors

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SMALLEST = 1 << 18  # multiplications
_LARGEST = 1 << 30


class _Kernels(NamedTuple):
    """The functions of a dtype, and the number of vectors of their micro-panels."""

    product: Callable[..., None]
    copy: Callable[..., None]
    nv: int


@lru_cache(maxsize=4)
def _kernels(dtype: np.dtype) -> _Kernels:
    nv = panel_vectors(1, MC)
    run = leaves.python_function(leaves.PRODUCT, product(dtype, nv))
    return _Kernels(run, leaves.python_function(leaves.COPY, copies(dtype)["copy"]), nv)


@lru_cache(maxsize=256)
def _vectors(dtype: np.dtype, columns: int) -> tuple[int, int]:
    """Return the number of vectors for `columns` columns, and the elements of the last one if it is not full."""
    return n_vectors(dtype, columns), columns % lanes(dtype)


@ignore_underflow
def matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """See `Engine`."""
    (rows, n_k), columns = a.shape, b.shape[1]
    compiled = a.dtype == b.dtype and a.dtype in _DTYPES and (bias is None or bias.dtype == a.dtype)
    if not compiled or not _SMALLEST < rows * n_k * columns <= _LARGEST:
        z: np.ndarray = a @ b
        return z if bias is None else z + bias
    dtype, item = a.dtype, a.itemsize
    if min(a.strides) < 0 or not a.flags.aligned:
        a = np.array(a, order="C")
    b = np.ascontiguousarray(b)
    run = _kernels(dtype).product
    vectors, tail = _vectors(dtype, columns)
    out = empty((rows, columns), dtype)
    init = np.zeros(columns, dtype) if bias is None else np.ascontiguousarray(bias, dtype)
    packed = take_workspace(n_k * vectors * machine().vector_bytes)
    try:
        _pack(b, packed.address, vectors, tail)
        run(
            w=packed.address, n_vectors=vectors, v0=0, v1=vectors, n_k=n_k, h=address(a), h_row=a.strides[0],
            h_k=a.strides[1], rows=rows, init=address(init), init_row=0, z=address(out), z_row=columns * item,
            tail=tail,
        )  # fmt: skip
    finally:
        give_back_workspace(packed)
    return out


def _pack(b: np.ndarray, packed: int, vectors: int, tail: int) -> None:
    """Pack b in the layout of `gemm`."""
    size, (_, copy, nv) = machine().vector_bytes, _kernels(b.dtype)
    n_k, row, source = b.shape[0], b.strides[0], address(b)
    for k0 in range(0, n_k, KC):
        k = min(KC, n_k - k0)
        for panel in range(0, vectors, nv):
            width = min(nv, vectors - panel)
            copy(
                source=source + k0 * row + panel * size, source_row=row, rows=k, vectors=width,
                tail=tail if panel + width == vectors else 0, target=packed + (k0 * vectors + panel * k) * size,
                target_row=width * size,
            )  # fmt: skip
