"""Launches of the kernels of ``kernels/layout.cu``, which are common to all cells."""

from rnnx.engines.gpu.codegen import declared, read, real_dtype
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Launch, Matrix

_TILE = 32
_CHUNK = 512  # rows per partial sum
_MAX_BLOCKS_Y = 65535


def _run(
    launch: Launch, kernel: str, blocks: tuple[int, int], threads: tuple[int, int], shared: int, **values: int
) -> None:
    launch(kernel, blocks, threads, declared(read("layout.cu"), kernel).bind(values), shared)


def to_time_major(
    stream: DeviceStream, launch: Launch, source: Array | None, target: int, shape: tuple[int, int, int],
    lengths: int = 0, kernel: str = "time_major",
) -> None:  # fmt: skip
    """Copy an array (n, m, T) or (n, m) to (T, m, n), the given shape, at address `target`; None means zeros."""
    n_steps, m, n = shape
    address, (sn, sm, *more) = 0, (1, n, m * n)
    if source is not None:
        address, (sn, sm, *more) = stream.address(source), stream.strides(source)
    st = more[0] if more else sn + 1
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


def sum_columns(stream: DeviceStream, launch: Launch, a: Matrix, target: int) -> None:
    """Write the column sums of a matrix to an address, in the matrix's dtype."""
    chunk, real = max(_CHUNK, -(-a.rows // _MAX_BLOCKS_Y)), real_dtype(a.dtype)
    n_chunks = -(-a.rows // chunk)
    partial = Arena(stream, {"sums": ((n_chunks, a.columns), real)})
    at, threads, shared = partial.addresses["sums"], (_TILE, 8), 8 * _TILE * real.itemsize
    sizes = {"columns": a.columns, "stride": a.stride, "rows": a.rows, "chunk": chunk}
    _run(launch, "sum_chunks", (-(-a.columns // _TILE), n_chunks), threads, shared, a=a.address, sums=at, **sizes)
    sizes = {"columns": a.columns, "stride": a.columns, "rows": n_chunks, "chunk": n_chunks}
    _run(launch, "sum_partial_sums", (-(-a.columns // _TILE), 1), threads, shared, a=at, sums=target, **sizes)


def scatter_add(launch: Launch, a: Matrix, index: int, target: Matrix) -> None:
    """Write a^T times one-hot rows, whose indices are at address `index`, to a matrix."""
    sizes = {"stride": a.stride, "rows": a.rows, "columns": a.columns, "dst_stride": target.stride}
    blocks = (-(-a.columns // 128) * target.columns, 1)
    _run(launch, "scatter_add", blocks, (128, 1), 128 * 4, a=a.address, index=index, dst=target.address, **sizes)
