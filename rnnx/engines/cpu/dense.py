"""The matrix product of dense layers, with the engine's own GEMM.

NumPy's BLAS is as fast, but its threads spin for a while after each call, on the cores that the thread pool needs next:
a training step of a character model took twice as long. Small products, for which a BLAS wakes no threads, and very
large ones, where its threads pay off, still use it.
"""

from functools import lru_cache

import numpy as np

from rnnx._core.underflow import ignore_underflow
from rnnx.engines.cpu.codegen.formats import packed_bytes
from rnnx.engines.cpu.codegen.gemm import KC, MC, n_vectors
from rnnx.engines.cpu.codegen.ir import lanes, machine
from rnnx.engines.cpu.descriptor.builder import copies, product
from rnnx.engines.cpu.descriptor.fields import MATRIX
from rnnx.engines.cpu.descriptor.layout import lines
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import address, empty
from rnnx.engines.cpu.runtime.sharing import Shared
from rnnx.engines.cpu.runtime.thread_policy import Work
from rnnx.engines.cpu.runtime.tuning import panel_vectors

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SMALLEST = 1 << 18  # multiplications
_LARGEST = 1 << 30


@lru_cache(maxsize=1)
def job() -> object_cache.Job:
    """Return the compiled job."""
    return object_cache.loops("loops.dense", "multiply")["multiply"]


class _Plan:
    """What products of matrices of the same sizes share."""

    def __init__(self, dtype: np.dtype, rows: int, n_k: int, columns: int) -> None:
        self.by_rows, self._k = rows >= columns, min(n_k, KC)
        nv, vectors, given = panel_vectors(1, MC), n_vectors(dtype, columns), copies(dtype)
        self._panels = -(-vectors // nv)
        m, most = (rows, rows) if self.by_rows else (1, self._panels)
        self._work = Work(1, m, rows * n_k * columns, 0, 0 if self.by_rows else self._panels, 0, False)
        self._blocks = -(-n_k // KC)
        self._shared = Shared(job(), self._work, most, self._sections, self._size)
        self.zeros = np.zeros(columns, dtype)
        self._panel = nv * machine().vector_bytes
        self._bytes = packed_bytes(dtype, "", n_k, vectors, KC)
        sizes = {"item": dtype.itemsize, "lanes": lanes(dtype), "rows": rows, "n_k": n_k, "columns": columns}
        functions = {name: given[name] for name in ("copy", "transpose", "transpose_masked")}
        functions |= {"product": product(dtype, nv), "zeros": address(self.zeros)}
        self._record = np.zeros((), MATRIX)
        for name, value in {**sizes, **functions, "nv": nv, "by_rows": self.by_rows}.items():
            self._record[name] = value

    def _sections(self, threads: int) -> int:
        return 1 + self._parts(threads) if self.by_rows else self._blocks

    def _parts(self, threads: int) -> int:
        return self._work.sections(threads, self._work.m)

    def _share(self, threads: int) -> int:
        """Return the bytes of a slice's share of the columns, for a block of k."""
        return lines(self._k * -(-self._panels // threads) * self._panel)

    def _size(self, threads: int) -> int:
        return self._bytes if self.by_rows else threads * self._share(threads)

    def run(self, **places: int) -> None:
        """Compute a product of matrices at these addresses."""
        record = self._record.copy()
        for name, value in places.items():
            record[name] = value

        def fill(threads: int, place: int) -> int:
            record["packed"], record["parts"] = place, self._parts(threads)
            record["scratch_size"] = self._share(threads)
            return int(record.ctypes.data)

        self._shared.run(fill)


_plan = lru_cache(maxsize=256)(_Plan)


@ignore_underflow
def matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """See `Engine`."""
    (rows, n_k), columns = a.shape, b.shape[1]
    compiled = a.dtype == b.dtype and a.dtype in _DTYPES and (bias is None or bias.dtype == a.dtype)
    if not compiled or not _SMALLEST < rows * n_k * columns <= _LARGEST:
        z: np.ndarray = a @ b
        return z if bias is None else z + bias
    dtype, plan = a.dtype, _plan(a.dtype, rows, n_k, columns)
    if min(a.strides) < 0 or not a.flags.aligned:
        a = np.array(a, order="C")
    transposed = plan.by_rows and b.T.flags.c_contiguous and not b.flags.c_contiguous
    if not transposed:
        b = np.ascontiguousarray(b)
    init = plan.zeros if bias is None else np.ascontiguousarray(bias)
    out = empty((rows, columns), dtype)
    plan.run(
        a=address(a), a_row=a.strides[0], a_k=a.strides[1], b=address(b), b_row=b.strides[1 if transposed else 0],
        transposed=int(transposed), init=address(init), z=address(out),
    )  # fmt: skip
    return out
