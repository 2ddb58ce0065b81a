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
from rnnx.engines.cpu.runtime import object_cache, thread_pool
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.buffer_pool import address, empty, workspace
from rnnx.engines.cpu.runtime.thread_policy import Work, choice
from rnnx.engines.cpu.runtime.thread_pool import Task
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
        self.by_rows = rows >= columns
        nv, vectors, given = panel_vectors(1, MC), n_vectors(dtype, columns), copies(dtype)
        self._panels = -(-vectors // nv)
        m, products = rows if self.by_rows else 1, rows * n_k * columns
        self.work = Work(1, m, products, 0, 0 if self.by_rows else self._panels, 0, False)
        self.balance = Balance(self.work.alone_ns)
        self.zeros = np.zeros(columns, dtype)
        sizes = {"item": dtype.itemsize, "lanes": lanes(dtype), "rows": rows, "n_k": n_k, "columns": columns}
        functions = {name: given[name] for name in ("copy", "copy_rows", "transpose")}
        functions |= {"product": product(dtype, nv), "zeros": address(self.zeros)}
        self._fields = {**sizes, **functions, "nv": nv, "by_rows": self.by_rows, "parts": 1, "transposed": 0}
        self._bytes = packed_bytes(dtype, "", n_k if self.by_rows else min(n_k, KC), vectors, KC)
        self._ways: dict[int, tuple[np.ndarray, Task, int]] = {}
        self._blocks = -(-n_k // KC)

    def way(self, threads: int) -> tuple[np.ndarray, Task, int]:
        """Return the record without addresses, the task and the bytes of the workspace for so many threads."""
        if threads not in self._ways:
            record, size = np.zeros((), MATRIX), self._bytes
            parts = self.work.sections(threads, self._fields["rows"])
            fields = {**self._fields, "parts": parts}
            if not self.by_rows:  # a slice packs its share of the columns
                share = -(-self._panels // threads) * fields["nv"] * machine().vector_bytes
                fields["scratch_size"] = lines(min(KC, fields["n_k"]) * share)
                size = threads * fields["scratch_size"]
            for name, value in fields.items():
                record[name] = value
            sections = 1 + parts if self.by_rows else self._blocks
            self._ways[threads] = record, Task(job(), threads, sections), size
        return self._ways[threads]

    def run(self, **places: int) -> None:
        """Compute a product of matrices at these addresses."""
        threads = min(choice(self.work)[0], self._fields["rows"] if self.by_rows else self._panels)
        if threads > 1 and self.balance.shares() and thread_pool.pool().acquire(threads):
            try:
                self._run(threads, True, places)
            finally:
                thread_pool.pool().release()
        else:
            self._run(1, threads > 1, places)

    def _run(self, threads: int, measured: bool, places: dict[str, int]) -> None:
        record, task, size = self.way(threads)
        record = record.copy()
        for name, value in places.items():
            record[name] = value
        with workspace(size) as place:
            record["packed"] = place
            descriptor = int(record.ctypes.data)
            if measured:
                task.run(descriptor, threads > 1, self.balance)
            else:
                task.run_alone(descriptor)


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
