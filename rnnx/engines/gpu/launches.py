"""Into internal layout and out of it, on a queue: the launches of the kernels in ``cuda/layout.cu``.

Dimensions: T steps, m examples, n features.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rnnx.engines.gpu.codegen import PACK_JOBS, real_dtype
from rnnx.engines.gpu.device import Arena, Array, Matrix, Queue

Launch = Callable[..., None]
Job = tuple[int, ...]  # source, destination, strides of rows and columns from and to, rows, columns

INDEX = np.dtype(np.int64)
_TILE = 32
_CHUNK = 512  # rows whose sums one block makes
_MOST_Y = 65535  # blocks in y


def rows(
    queue: Queue, launch: Launch, source: Array | None, target: int, shape: tuple[int, int, int], lengths: int = 0,
    kernel: str = "rows_as_stored", *, internal: bool = False,
) -> None:  # fmt: skip
    """An array of shape (n, m, T) or (n, m), any strides, to (T, m, n) at address `target`; None: zeros.

    `internal` says that the source is (T, m, n) already.
    """
    n_steps, m, n = shape
    strides: tuple[int, ...] = (1, n, m * n)
    address = 0
    if source is not None:
        address, strides = queue.address(source), queue.strides(source)
        strides = strides[::-1] if internal else strides
    sn, sm, st = strides if len(strides) == 3 else (*strides, strides[0] + 1)
    blocks = (-(-n // _TILE) * m, min(-(-n_steps // _TILE), _MOST_Y))
    itemsize = 8  # of the widest number
    arguments = (address, sn, sm, st, target, lengths, n_steps, m, n)
    launch(kernel, blocks, (_TILE, 8), arguments, shared=_TILE * (_TILE + 1) * itemsize)


def in_rows(queue: Queue, source: Array) -> bool:
    """Whether an array of shape (n, m, T) lies as (T, m, n) does in C order: it can be read where it is."""
    n, m, n_steps = source.shape
    wanted = ((n, 1), (m, n), (n_steps, n * m))
    return all(size == 1 or have == want for have, (size, want) in zip(queue.strides(source), wanted, strict=True))


def job(queue: Queue, source: Array | None, target: int, rows_to: int, columns_to: int, shape: tuple[int, int]) -> Job:
    """One matrix for `pack`; a source of one dimension is a column; None: zeros."""
    if source is None:
        return (0, target, 0, 0, rows_to, columns_to, *shape)
    strides = queue.strides(source)
    return (queue.address(source), target, strides[0], strides[1], rows_to, columns_to, *shape)


def pack(launch: Launch, jobs: Iterable[Job]) -> None:
    """Matrices to their places."""
    remaining = list(jobs)
    while remaining:
        now, remaining = remaining[:PACK_JOBS], remaining[PACK_JOBS:]
        largest = max(rows * columns for *_, rows, columns in now)
        now += [(0,) * 8] * (PACK_JOBS - len(now))
        launch("pack", (min(-(-largest // 256), 64), PACK_JOBS), (256, 1), [number for one in now for number in one])


def sum_columns(queue: Queue, launch: Launch, a: Matrix, target: int) -> None:
    """The sums of the columns of a matrix, in its dtype, at address `target`."""
    chunk, real = max(_CHUNK, -(-a.rows // _MOST_Y)), real_dtype(a.dtype)
    n_chunks = -(-a.rows // chunk)
    partial = Arena(queue, {"sums": ((n_chunks, a.columns), real)})
    blocks, threads, shared = -(-a.columns // _TILE), (_TILE, 8), 8 * _TILE * real.itemsize
    at = partial.address("sums")
    launch("sums_of_chunks", (blocks, n_chunks), threads, (a.address, a.stride, a.rows, a.columns, chunk, at), shared)
    launch("sums_of_sums", (blocks, 1), threads, (at, a.columns, n_chunks, a.columns, n_chunks, target), shared)


def sum_by_index(launch: Launch, a: Matrix, index: int, target: Matrix) -> None:
    """The transpose of `a` times one-hot rows, given by the addresses of their indices."""
    blocks = -(-a.columns // 128) * target.columns
    arguments: tuple[Any, ...] = (a.address, a.stride, index, a.rows, a.columns, target.address, target.stride)
    launch("sums_by_index", (blocks, 1), (128, 1), arguments, shared=128 * 4)
