# ruff: noqa: D102 - methods are documented in `rnnx.engines.operations`
"""The operations of a training step on a GPU. They never synchronize, so they can be captured.

A table in device memory has the arguments of all rows of a call: their sizes and addresses, and the addresses of the
numbers. What changes between the steps of a captured graph are the values there, not the table.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import INDEX, Array
from rnnx.engines.gpu.device import Arena, DeviceStream, DType
from rnnx.engines.gpu.kernel import C_TYPES, options
from rnnx.engines.gpu.operation_kernels import (
    THREADS,
    TableKernel,
    elementwise_kernel,
    finish_kernels,
    loss_kernel,
    squares_kernel,
)
from rnnx.engines.operations import Arrays, Loss, Numbers, Rule
from rnnx.engines.reference.operations import OPERATIONS as REFERENCE
from rnnx.engines.reference.operations import within

StreamOf = Callable[[Array], AbstractContextManager[DeviceStream]]

_PER_THREAD = 4  # elements
_MOST_BLOCKS = 1024  # per row of a table
_MOST_ROWS = 65535
_NARROW = 128  # outputs, up to which a warp computes a row
_DOUBLE = np.dtype(np.float64)


class GpuOperations:
    """See `rnnx.engines.operations.Operations`. `stream_of` gives access to the stream of an array."""

    def __init__(self, stream_of: StreamOf) -> None:
        self._stream_of = stream_of

    def elementwise(
        self, rule: Rule, numbers: Numbers, rows: Sequence[Arrays], out: Sequence[Arrays | None] | None = None
    ) -> list[Arrays]:
        results: list[Any] = [None] * len(rows)
        of_dtype: dict[DType, list[int]] = {}
        given: Sequence[Arrays | None] = out or [None] * len(rows)
        for k, (row, targets) in enumerate(zip(rows, given, strict=True)):
            if 0 in row[0].shape or not _usual(row, targets):
                results[k] = REFERENCE.elementwise(rule, numbers, [row], [targets])[0]
            else:
                of_dtype.setdefault(np.dtype(row[0].dtype), []).append(k)
        for dtype, places in of_dtype.items():
            with self._stream_of(rows[places[0]][0]) as stream:
                kernel = elementwise_kernel(rule, _kinds(numbers), len(rows[places[0]]))
                for k in places:
                    results[k] = given[k] or _new(stream, rows[k][0], kernel.n_results)
                Table(stream, kernel, dtype, [(*rows[k], *results[k]) for k in places], numbers).launch()
        return results

    def joined(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of one dtype, each of shape (n,), one after the other, in one launch."""
        ends = list(itertools.accumulate(a.size for a in arrays))
        with self._stream_of(arrays[0]) as stream:
            whole = Arena(stream, {"a": ((ends[-1],), np.dtype(arrays[0].dtype))}).array("a")
        parts = [(whole[end - a.size : end],) for a, end in zip(arrays, ends, strict=True)]
        self.elementwise(_same, {}, [(a,) for a in arrays], parts)
        return whole

    def norm(self, arrays: Sequence[Array]) -> Array:
        arrays = [ns.contiguous(ns.namespace(a), a) for a in arrays]
        widest = np.dtype(ns.one_dtype(ns.namespace(arrays[0]), arrays))
        with self._stream_of(arrays[0]) as stream:
            blocks = _blocks(arrays)
            memory = Arena(stream, {"parts": ((len(arrays), blocks, 2), _DOUBLE)})
            result = Arena(stream, {"norm": ((), widest)})  # alone, because the caller may keep it
            at = parts = memory.addresses["parts"]
            for dtype in dict.fromkeys(np.dtype(a.dtype) for a in arrays):
                own = [(a,) for a in arrays if a.dtype == dtype]
                Table(stream, squares_kernel(), dtype, own, {}, blocks).launch(at)
                at += len(own) * blocks * 2 * _DOUBLE.itemsize
            count, at = len(arrays) * blocks, result.addresses["norm"]
            finish(stream, "finish_norm", widest, parts=parts, count=count, result=at)
            return result.array("norm")

    def loss(
        self, loss: Loss, y: Array, targets: Array, ends: Array | None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        xp, dtype = ns.namespace(y), np.dtype(y.dtype)
        (n_y, m, n_steps), rows = y.shape, y.shape[1] * y.shape[2]
        terms, total = loss.terms(n_y), None
        y = ns.contiguous(xp, ns.reversed_axes(xp, y))
        if weights is not None:
            weights, total = within(xp, ns.astype(xp, weights, dtype), ends)
            weights, ends = ns.contiguous(xp, ns.reversed_axes(xp, weights)), None
        lengths = None if ends is None else ns.contiguous(xp, ns.astype(xp, ends, INDEX))
        targets = ns.astype(xp, targets, INDEX) if loss.of_classes else ns.reversed_axes(xp, targets)
        if not loss.of_classes:
            targets = ns.contiguous(xp, ns.astype(xp, targets, dtype))
        with self._stream_of(y) as stream:
            values, mean = Arena(stream, {"a": ((rows,), _DOUBLE)}), Arena(stream, {"a": ((), dtype)})
            gradient = Arena(stream, {"a": ((n_steps, m, n_y), dtype)})
            (kernel, source), n = loss_kernel(loss, weights is not None), n_y // loss.parts
            row, step = stream.strides(targets) if loss.of_classes else (n, m * n)
            threads = 32 if n <= _NARROW else THREADS
            places = {"values": values.addresses["a"], "dy": gradient.addresses["a"]}
            end = 0 if lengths is None else stream.address(lengths)
            arguments = kernel.bind(
                {"y": stream.address(y), "targets": stream.address(targets), "lengths": end, **places}
                | {"n_steps": n_steps, "m": m, "n": n, "target_row": row, "target_step": step, "terms": terms}
                | ({} if weights is None else {"weights": stream.address(weights), "total": stream.address(total)})
            )
            launch = stream.kernels((source,), options(dtype))
            launch(kernel.name, (rows, 1), (threads, 1), arguments, 2 * threads * 8)
            steps = (m, n_steps, terms) if total is None else (1, 1, 1)  # the values have their share of the total
            finish(
                stream, "finish_mean", dtype, parts=places["values"], count=rows, result=mean.addresses["a"],
                lengths=end, m=steps[0], n_steps=steps[1], terms=steps[2],
            )  # fmt: skip
            return mean.array("a"), ns.reversed_axes(xp, gradient.array("a"))


def _same(_ops: Any, _numbers: Numbers, a: Any) -> tuple[Any]:
    return (a,)


def _usual(row: Arrays, targets: Arrays | None) -> bool:
    """Return whether all arrays of a row have one dtype and C order."""
    arrays, dtype = (*row, *(targets or ())), row[0].dtype
    is_known = dtype.name in C_TYPES and dtype.isnative
    return is_known and all(a.dtype == dtype and a.flags.c_contiguous for a in arrays)


def _kinds(numbers: Numbers) -> tuple[tuple[str, str], ...]:
    """Return the names of numbers, and the dtypes of those in device memory; "" for those of the host."""
    return tuple((name, np.dtype(n.dtype).name if hasattr(n, "shape") else "") for name, n in numbers.items())


def _new(stream: DeviceStream, like: Array, n: int) -> Arrays:
    """Return new arrays; each owns its memory, so that it can be freed alone."""
    shape, dtype = tuple(like.shape), np.dtype(like.dtype)
    return tuple([Arena(stream, {"a": (shape, dtype)}).array("a") for _ in range(n)])


def _blocks(arrays: Sequence[Array]) -> int:
    """Return the number of blocks that share an array."""
    return min(-(-max(a.size for a in arrays) // (THREADS * _PER_THREAD)), _MOST_BLOCKS)


class Table:
    """A launch of a kernel over rows of arrays, and the numbers of a rule, with its arguments in device memory."""

    def __init__(
        self,
        stream: DeviceStream,
        kernel: TableKernel,
        dtype: DType,
        rows: Sequence[Arrays],
        numbers: Numbers,
        blocks: int = 0,
    ) -> None:
        self._blocks = blocks or _blocks([row[0] for row in rows]), len(rows)
        if len(rows) > _MOST_ROWS:
            raise ValueError(f"there may be at most {_MOST_ROWS} arrays; got {len(rows)}")
        records = [n for row in rows for n in (row[0].size, *map(stream.address, row))]
        given = [(stream.address(n), 0.0) if hasattr(n, "shape") else (0, float(n)) for n in numbers.values()]
        pairs = np.array([at for at, _ in given for _ in range(2)], np.int64)
        pairs[1::2] = np.array([value for _, value in given], np.float64).view(np.int64)
        values = [*records, *pairs.tolist()]
        self._memory = Arena(stream, {"table": ((len(values),), INDEX)})
        self._at = self._memory.addresses["table"]
        stream.send(values, self._at)  # by value: a graph would copy the host's memory again, which may be others' then
        self._numbers, self._kernel = self._at + 8 * len(records), kernel.kernel
        self._run = stream.kernels((kernel.source,), (*options(dtype), "-fmad=false"))

    def launch(self, parts: int = 0) -> None:
        """Launch the kernel; `parts` is the address of what blocks write besides arrays."""
        arguments = self._kernel.bind({"table": self._at, "numbers": self._numbers, "parts": parts})
        self._run(self._kernel.name, self._blocks, (THREADS, 1), arguments, 2 * THREADS * 8 if parts else 0)


def finish(stream: DeviceStream, name: str, dtype: DType, **values: int) -> None:
    """Launch one of `finish_kernels`."""
    source, kernels = finish_kernels()
    launch = stream.kernels((source,), options(dtype))
    launch(name, (1, 1), (THREADS, 1), kernels[name].bind(values), 2 * THREADS * 8)
