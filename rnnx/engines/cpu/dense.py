"""The products of dense layers, with the engine's own GEMM.

NumPy's BLAS is as fast, but its threads spin for a while after each call, on the cores that the thread pool needs next:
a training step of a character model took twice as long. Small products, for which a BLAS wakes no threads, and very
large ones, where its threads pay off, still use it.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.engines.cpu.codegen.formats import packed_bytes
from rnnx.engines.cpu.codegen.gemm import KC, MC, n_vectors
from rnnx.engines.cpu.codegen.ir import lanes, machine
from rnnx.engines.cpu.descriptor.builder import copies, product
from rnnx.engines.cpu.descriptor.fields import DENSE_GRADIENTS, MATRIX
from rnnx.engines.cpu.descriptor.layout import contiguous, lines
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import address, addresses, empty
from rnnx.engines.cpu.runtime.sharing import Calls
from rnnx.engines.cpu.runtime.tuning import panel_vectors
from rnnx.engines.cpu.runtime.work import Work

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_SMALLEST = 1 << 18  # multiplications
_LARGEST = 1 << 30

# The fields of the records that differ from call to call.
_OF_PRODUCT, _OF_GRADIENTS = slice(-11, None), slice(-9, None)


@lru_cache(maxsize=1)
def jobs() -> Mapping[str, object_cache.Job]:
    """Return the compiled jobs."""
    return object_cache.loops("loops.dense", "multiply", "gradients")


class _Plan:
    """What calls with matrices of the same sizes share, such as most fields of the job's `record`.

    `width`: the number of columns of the matrix that is packed. `sizes`: further fields.
    """

    def __init__(self, record: np.dtype, dtype: np.dtype, width: int, by_rows: bool, **sizes: int) -> None:
        self.nv, self.vectors, self.by_rows = panel_vectors(1, MC), n_vectors(dtype, width), by_rows
        self.panels, self.dtype = -(-self.vectors // self.nv), dtype
        self._zeros = np.zeros(width, dtype)
        self.zeros = address(self._zeros)
        functions = {**copies(dtype), "product": product(dtype, self.nv), "zeros": self.zeros}
        numbers = {"item": dtype.itemsize, "lanes": lanes(dtype), "nv": self.nv, "by_rows": by_rows}
        known = {**functions, **numbers, **sizes}
        names = record.names or ()
        self.record = np.array([known.get(name, 0) for name in names], np.int64)

    def bytes_of_columns(self, n_k: int, threads: int) -> int:
        """Return the bytes of a slice's share of the packed columns of n_k rows."""
        return lines(n_k * -(-self.panels // threads) * self.nv * machine().vector_bytes)


class _Product(_Plan):
    """Products of matrices of the same sizes."""

    def __init__(self, dtype: np.dtype, rows: int, n_k: int, columns: int) -> None:
        by_rows = rows >= columns
        super().__init__(MATRIX, dtype, columns, by_rows, rows=rows, n_k=n_k, columns=columns)
        self._k, self._blocks = min(n_k, KC), -(-n_k // KC)
        m, most = (rows, rows) if self.by_rows else (1, self.panels)
        self._work = Work(1, m, rows * n_k * columns, 0, 0 if self.by_rows else self.panels, 0, False)
        self._shared = Calls(jobs()["multiply"], self._work, most, self._sections, self._size)
        self._bytes = packed_bytes(dtype, "", n_k, self.vectors, KC)

    def _sections(self, threads: int) -> int:
        return 1 + self._parts(threads) if self.by_rows else self._blocks

    def _parts(self, threads: int) -> int:
        return self._work.sections(threads, self._work.m)

    def _share(self, threads: int) -> int:
        """Return the bytes of a slice's share of the columns, for a block of k."""
        return self.bytes_of_columns(self._k, threads)

    def _size(self, threads: int) -> int:
        return self._bytes if self.by_rows else threads * self._share(threads)

    def run(self, *matrices: int) -> None:
        """Compute a product of matrices, the last fields of the record."""
        record = self.record.copy()

        def fill(threads: int, place: int) -> int:
            record[_OF_PRODUCT] = (place, self._share(threads), self._parts(threads), *matrices)
            return address(record)

        self._shared.run(fill)


class _Gradients(_Plan):
    """The gradients of dense layers of the same sizes."""

    def __init__(self, dtype: np.dtype, rows: int, n_in: int, n_out: int) -> None:
        by_rows = n_out >= n_in
        self._sizes, self._block = (rows, n_in, n_out), KC * (MC + lanes(dtype)) * dtype.itemsize
        given = {"rows": rows, "n_in": n_in, "n_out": n_out, "block_b": self._block}
        super().__init__(DENSE_GRADIENTS, dtype, n_in, by_rows, **given)
        work, self._bytes = Work(1, rows, 2 * rows * n_in * n_out, 0, 0, 0, False), lines(self._bytes_of_w())
        self._shared = Calls(jobs()["gradients"], work, rows, lambda _: 1 + -(-rows // KC), self._size)

    def _bytes_of_w(self) -> int:
        return packed_bytes(self.dtype, "", self._sizes[2], self.vectors, KC)

    def _share(self, threads: int) -> int:
        """Return the bytes of a slice's blocks."""
        return self._block + self.bytes_of_columns(min(self._sizes[0], KC), 1 if self.by_rows else threads)

    def _size(self, threads: int) -> int:
        return self._bytes + threads * self._share(threads)

    def run(self, dz: np.ndarray, a: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return da, dW and db."""
        rows, n_in, n_out = self._sizes
        da, dw = empty((rows, n_in), self.dtype), empty((n_out, n_in), self.dtype)
        db = np.zeros((n_vectors(self.dtype, n_out) * lanes(self.dtype), 1), self.dtype)
        matrices, record = addresses([dz, a, w, da, dw, db]), self.record.copy()

        def fill(threads: int, place: int) -> int:
            record[_OF_GRADIENTS] = (place, place + self._bytes, self._share(threads), *matrices)
            return address(record)

        self._shared.run(fill)
        return da, dw, db[:n_out]


_product, _gradients = lru_cache(maxsize=256)(_Product), lru_cache(maxsize=256)(_Gradients)


def _is_compiled(products: int, *arrays: np.ndarray) -> bool:
    """Return whether so many multiplications of arrays are made here."""
    dtype = arrays[0].dtype
    return _SMALLEST < products <= _LARGEST and dtype in _DTYPES and all(a.dtype == dtype for a in arrays)


@ignore_harmless_errors
def matmul(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """See `Engine`."""
    (rows, n_k), columns = a.shape, b.shape[1]
    if not _is_compiled(rows * n_k * columns, a, b, *(() if bias is None else (bias,))):
        z: np.ndarray = a @ b
        return z if bias is None else z + bias
    plan = _product(a.dtype, rows, n_k, columns)
    if min(a.strides) < 0 or not a.flags.aligned:
        a = np.array(a, order="C")
    transposed = plan.by_rows and b.T.flags.c_contiguous and not b.flags.c_contiguous
    if not transposed:
        b = np.ascontiguousarray(b)
    bias = None if bias is None else np.ascontiguousarray(bias)  # which must live until the product
    out, init = empty((rows, columns), a.dtype), plan.zeros if bias is None else address(bias)
    plan.run(address(a), *a.strides, address(b), b.strides[1 if transposed else 0], transposed, init, address(out))
    return out


@ignore_harmless_errors
def gradients(dz: np.ndarray, a: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """See `Engine`."""
    (rows, n_out), n_in = dz.shape, a.shape[1]
    if not _is_compiled(rows * n_in * n_out, dz, a, w):
        return None
    return _gradients(dz.dtype, rows, n_in, n_out).run(*contiguous((dz, a, w)))
