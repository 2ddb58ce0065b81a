"""Launches of the kernels common to all cells: those of ``kernels/layout.cu``, and `pack`."""

from collections.abc import Sequence

import numpy as np

from rnnx.engines.gpu.codegen import PACK_JOBS, Job, declared, read, real_dtype
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Launch, Matrix

INDEX = np.dtype(np.int64)
_TILE = 32
_CHUNK = 512  # rows per partial sum
_MAX_BLOCKS_Y = 65535
_NO_JOB = Job._make([0] * len(Job._fields))


def _run(
    launch: Launch, kernel: str, blocks: tuple[int, int], threads: tuple[int, int], shared: int, **values: int
) -> None:
    launch(kernel, blocks, threads, declared(read("layout.cu"), kernel).bind(values), shared)


def to_time_major(
    stream: DeviceStream, launch: Launch, source: Array | None, target: int, shape: tuple[int, int, int],
    lengths: int = 0, kernel: str = "time_major", *, from_time_major: bool = False,
) -> None:  # fmt: skip
    """Copy an array (n, m, T) or (n, m), or with `from_time_major` (T, m, n), to (T, m, n) at address `target`.

    `shape` is that of the target. A source of None means zeros.
    """
    n_steps, m, n = shape
    address, (sn, sm, st) = 0, (1, n, m * n)
    if source is not None:
        address, strides = stream.address(source), stream.strides(source)
        strides = strides[::-1] if from_time_major else strides
        sn, sm, st = strides if len(strides) == 3 else (*strides, strides[0] + 1)
    blocks = (-(-n // _TILE) * m, min(-(-n_steps // _TILE), _MAX_BLOCKS_Y))
    shared = _TILE * (_TILE + 1) * 8  # enough for float64
    _run(
        launch, kernel, blocks, (_TILE, 8), shared,
        src=address, sn=sn, sm=sm, st=st, dst=target, lengths=lengths, n_steps=n_steps, m=m, n=n,
    )  # fmt: skip


def is_time_major(stream: DeviceStream, source: Array) -> bool:
    """Whether an array (n, m, T) is a view of (T, m, n) in C order."""
    n, m, n_steps = source.shape
    expected = ((n, 1), (m, n), (n_steps, n * m))
    return all(size == 1 or have == want for have, (size, want) in zip(stream.strides(source), expected, strict=True))


def pack_job(
    stream: DeviceStream, source: Array | None, target: int, strides: tuple[int, int], shape: tuple[int, int]
) -> Job:
    """Return a job of `pack` that copies a matrix to an address with given strides; None means zeros."""
    if source is None:
        return Job(0, 0, 0, target, *strides, *shape)
    row, column = stream.strides(source)
    return Job(stream.address(source), row, column, target, *strides, *shape)


def pack(launch: Launch, jobs: Sequence[Job]) -> None:
    """Copy matrices, `PACK_JOBS` per launch."""
    for first in range(0, len(jobs), PACK_JOBS):
        batch = list(jobs[first : first + PACK_JOBS])
        blocks = min(-(-max(job.rows * job.columns for job in batch) // 256), 64)
        batch += [_NO_JOB] * (PACK_JOBS - len(batch))
        launch("pack", (blocks, PACK_JOBS), (256, 1), [value for job in batch for value in job])


def sum_columns(stream: DeviceStream, launch: Launch, a: Matrix, target: int) -> None:
    """Write the column sums of a matrix to an address, in the matrix's dtype."""
    chunk, real = max(_CHUNK, -(-a.rows // _MAX_BLOCKS_Y)), real_dtype(a.dtype)
    n_chunks = -(-a.rows // chunk)
    partial = Arena(stream, {"sums": ((n_chunks, a.columns), real)})
    at, threads, shared = partial.address("sums"), (_TILE, 8), 8 * _TILE * real.itemsize
    sizes = {"columns": a.columns, "stride": a.stride, "rows": a.rows, "chunk": chunk}
    _run(launch, "sum_chunks", (-(-a.columns // _TILE), n_chunks), threads, shared, a=a.address, sums=at, **sizes)
    sizes = {"columns": a.columns, "stride": a.columns, "rows": n_chunks, "chunk": n_chunks}
    _run(launch, "sum_partial_sums", (-(-a.columns // _TILE), 1), threads, shared, a=at, sums=target, **sizes)


def scatter_add(launch: Launch, a: Matrix, index: int, target: Matrix) -> None:
    """Write a^T times one-hot rows, whose indices are at address `index`, to a matrix."""
    sizes = {"stride": a.stride, "rows": a.rows, "columns": a.columns, "dst_stride": target.stride}
    blocks = (-(-a.columns // 128) * target.columns, 1)
    _run(launch, "scatter_add", blocks, (128, 1), 128 * 4, a=a.address, index=index, dst=target.address, **sizes)
