# ruff: noqa: D102 - methods are documented in `rnnx.engines.operations`
"""The operations of a training step, compiled. Threads share large ones, with the same bits."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.engines.cpu import kernels
from rnnx.engines.cpu.array_tables import ArrayTable, array_table
from rnnx.engines.cpu.codegen.ir import lanes
from rnnx.engines.cpu.descriptor.fields import ROWS, TABLE
from rnnx.engines.cpu.descriptor.layout import lines
from rnnx.engines.cpu.kernels import DTYPES, ONE, Kernel
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import address, addresses, empty
from rnnx.engines.cpu.runtime.sharing import Calls
from rnnx.engines.cpu.runtime.work import Work
from rnnx.engines.operations import Arrays, Loss, Numbers, Operations, Rule
from rnnx.engines.reference.operations import OPERATIONS as REFERENCE
from rnnx.engines.reference.operations import within

_SMALLEST = 1e-280  # of a sum of squares: smaller ones may have lost numbers
# What a number that an operation computes costs, in numbers that are read or written in the same time.
_OF_LOSS = 12
FEW = 250_000  # such numbers are not shared among threads


@lru_cache(maxsize=1)
def _jobs() -> Mapping[str, object_cache.Job]:
    return object_cache.loops("loops.operations", "elementwise", "loss", "mask")


@lru_cache(maxsize=256)
def _shared(job: str, size: int, numbers: int, scratch: int) -> Calls:
    work = Work(1, size, 0, numbers, 0, 0, False)
    return Calls(_jobs()[job], work, size, lambda _: 1, lambda threads: threads * scratch)


def run_shared(job: str, record: np.ndarray, size: int, numbers: int, scratch: int = 0) -> None:
    """Run a job over `size` rows or elements, which reads and writes so many numbers; slices have scratch memory."""
    record["scratch_size"] = scratch = lines(scratch)

    def fill(_: int, place: int) -> int:
        record["scratch"] = place
        return int(record.ctypes.data)

    _shared(job, size, numbers, scratch).run(fill)


class CpuOperations:
    """See `rnnx.engines.operations.Operations`."""

    def elementwise(
        self, rule: Rule, numbers: Numbers, rows: Sequence[Arrays], out: Sequence[Arrays | None] | None = None
    ) -> list[Arrays]:
        if not rows:
            return []
        done = _run(rule, numbers, rows, out)
        if done is not None:
            return done
        results: list[Arrays] = []
        for row, targets in zip(rows, out or [None] * len(rows), strict=True):  # of any dtype and memory order
            own: Any = None if targets is None else [targets]
            done = _run(rule, numbers, [row], own)
            if done is None:
                over = _run(rule, numbers, [_transposed(row)], own and [_transposed(own[0])])
                done = over and (own or [_transposed(over[0])])
            results += done or REFERENCE.elementwise(rule, numbers, [row], own)
        return results

    def once(self, rule: Rule, numbers: Numbers, rows: Sequence[Arrays]) -> Callable[[], None] | None:
        arrays = [a for row in rows for a in (*row, row[0], *row[2:])]
        width, dtype = len(arrays) // len(rows), arrays[0].dtype
        table = array_table(arrays, width, len(rows[0]))
        if table is None:
            return None
        kernel = kernels.elementwise(rule, tuple(numbers), len(rows[0]), dtype)
        return _Once(kernel, table, width, numbers, len(rows), arrays)

    @ignore_harmless_errors
    def norm(self, arrays: Sequence[np.ndarray]) -> Any:
        total, dtypes = 0.0, {a.dtype for a in arrays}
        if not dtypes <= DTYPES:
            return REFERENCE.norm(arrays)
        for dtype in dtypes:
            given = arrays if len(dtypes) == 1 else [a for a in arrays if a.dtype == dtype]
            table = array_table(given, 1, 1)
            if table is None:
                given = [np.array(a, order="C") for a in given]
                table = array_table(given, 1, 1)
            assert table is not None
            squares = np.empty(64)  # more lanes than a vector has
            kernels.squares(dtype).run(len(given), address(table.numbers), address(squares))
            total += float(squares[0])
        if not _SMALLEST < total < math.inf:
            return REFERENCE.norm(arrays)
        return max(dtypes, key=operator.attrgetter("itemsize")).type(math.sqrt(total))

    @ignore_harmless_errors
    def loss(
        self, loss: Loss, y: np.ndarray, targets: np.ndarray, ends: Any, weights: Any = None
    ) -> tuple[Any, np.ndarray]:
        (n_y, m, n_steps), dtype = y.shape, y.dtype
        if dtype not in DTYPES or not (loss.of_classes or targets.dtype == dtype):
            return REFERENCE.loss(loss, y, targets, ends, weights)
        rows = np.ascontiguousarray(y.T)
        if loss.of_classes:
            target = np.asarray(targets, np.int64)
            row, step = target.strides
        else:
            target = np.ascontiguousarray(targets.T)
            step, row, _ = target.strides
        if ends is None:
            lengths, count = _whole(m, n_steps), m * n_steps
        else:
            lengths = np.ascontiguousarray(ends, np.int64)
            count = max(int(lengths.sum()), 1)
        weight = 0
        if weights is not None:
            masked, total = within(np, weights, ends)
            by_step, count = np.ascontiguousarray(masked.T, dtype), float(total)
            (weight,) = addresses([by_step])
        terms, values = np.array([float(count * loss.terms(n_y))]), np.empty(n_steps * m)
        gradient = empty(rows.shape, dtype)
        kernel = kernels.loss(loss, dtype, weights is not None)
        given = addresses([rows, target, lengths, gradient, terms, values])
        _run_loss(kernel, rows, loss.parts, n_steps, m, n_y // loss.parts, *given, step, row, weight)
        mean = float(np.add.accumulate(values)[-1]) / float(terms[0])  # one by one
        if not math.isfinite(mean):  # NumPy's functions say what the caller wants to know of errors
            return REFERENCE.loss(loss, y, targets, ends, weights)
        return dtype.type(mean), gradient.T

    @ignore_harmless_errors
    def softmax(self, y: np.ndarray) -> np.ndarray | None:
        if y.dtype not in DTYPES or not y.flags.f_contiguous or not y.size:
            return None
        n_y, rows, result = y.shape[0], y.T, empty(y.shape[::-1], y.dtype)
        n = y.size // n_y
        arrays = [rows, _whole(1, n), result, ONE, np.empty(n)]  # which live until the kernel has run
        at, *places = addresses(arrays)
        _run_loss(kernels.softmax(y.dtype), rows, 1, n, 1, n_y, at, at, *places, 0, 0, 0)
        return result.T


def _run_loss(kernel: Kernel, rows: np.ndarray, parts: int, *arguments: int) -> None:
    """Run the kernel of a loss for the rows of y."""
    if rows.size * _OF_LOSS < FEW:
        kernel.run(*arguments)
    else:
        n_steps, m, *_ = arguments
        record = np.array((kernel.address, 0, 0, rows.itemsize, parts, *arguments), ROWS)
        run_shared("loss", record, n_steps, rows.size * _OF_LOSS, 8 * m)


def _run(rule: Rule, numbers: Numbers, rows: Sequence[Arrays], out: Any) -> list[Arrays] | None:
    """Compute a rule; None if the arrays do not have one dtype that is compiled, or C order."""
    dtype = rows[0][0].dtype
    if dtype not in DTYPES:
        return None
    kernel = kernels.elementwise(rule, tuple(numbers), len(rows[0]), dtype)
    results = out
    if out is None:
        results = [tuple([empty(row[0].shape, dtype) for _ in range(kernel.n_results)]) for row in rows]
    elif None in out:
        return None
    arrays = [*chain.from_iterable(chain.from_iterable(zip(rows, results, strict=True)))]
    width = len(arrays) // len(rows)
    table = array_table(arrays, width, len(rows[0]))
    if table is None:
        return None
    values = np.array([*numbers.values()], np.float64)
    if table.size * width < FEW:
        kernel.run(len(rows), address(table.numbers), address(values) if numbers else 0)
    else:
        record = _record(kernel, dtype, width, 0, len(rows), table.numbers, values)
        run_shared("elementwise", record, table.size, table.size * width, table.numbers.nbytes)
    return list(results)


def _record(
    kernel: Kernel, dtype: np.dtype, width: int, done: int, rows: int, table: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Return the record of a job over a table."""
    arguments = rows, address(table), address(values) if len(values) else 0
    return np.array((kernel.address, 0, 0, dtype.itemsize, lanes(dtype), width + 1, done, *arguments), TABLE)


class _Once:
    """The elementwise job over a table, which runs once. It also keeps the arrays alive."""

    def __init__(
        self, kernel: Kernel, table: ArrayTable, width: int, numbers: Numbers, rows: int, arrays: Sequence[np.ndarray]
    ) -> None:
        self._table, self._width, self._arrays = table, width, arrays
        self._values, self._done = np.array([*numbers.values()], np.float64), np.zeros(1, np.int64)
        dtype, done = arrays[0].dtype, address(self._done)
        self._record = _record(kernel, dtype, width, done, rows, table.numbers, self._values)

    def __call__(self) -> None:
        """Run the job unless it has been done, which it notes itself: no interrupt comes between the two."""
        if not self._done[0]:
            size = self._table.size
            run_shared("elementwise", self._record, size, size * self._width, self._table.numbers.nbytes)


def _transposed(arrays: Arrays) -> Arrays:
    return tuple([a.T for a in arrays])


@lru_cache(maxsize=64)
def _whole(m: int, n_steps: int) -> np.ndarray:
    """Return full lengths."""
    return np.full(m, n_steps, np.int64)


OPERATIONS: Operations = CpuOperations()
