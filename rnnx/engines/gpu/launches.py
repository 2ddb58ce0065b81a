"""Launches of the kernels of ``kernels/layout.cu``, which are common to all cells."""

from rnnx.cells import Cell
from rnnx.engines.gpu.codegen import sources
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, DType, Matrix
from rnnx.engines.gpu.kernel import declared, options, read, real_dtype

_TILE = 32
_CHUNK = 512  # rows per partial sum
_MAX_BLOCKS_Y = 65535


class Launcher:
    """The compiled kernels of a cell, and launches of the common ones."""

    def __init__(self, stream: DeviceStream, cell: Cell, dtype: DType) -> None:
        self.stream = stream
        self.launch = stream.kernels(sources(cell), options(dtype))

    def _run(self, kernel: str, blocks: tuple[int, int], threads: tuple[int, int], shared: int, **values: int) -> None:
        self.launch(kernel, blocks, threads, declared(read("layout.cu"), kernel).bind(values), shared)

    def to_time_major(
        self, source: Array | None, target: int, shape: tuple[int, ...], lengths: int = 0,
        kernel: str = "time_major",
    ) -> None:  # fmt: skip
        """Copy an array (n, m, T) or (n, m) to (T, m, n), the given shape, at address `target`; None means zeros."""
        n_steps, m, n = shape
        address, (sn, sm, *more) = 0, (1, n, m * n)
        if source is not None:
            address, (sn, sm, *more) = self.stream.address(source), self.stream.strides(source)
        st = more[0] if more else sn + 1
        blocks = (-(-n // _TILE) * m, min(-(-n_steps // _TILE), _MAX_BLOCKS_Y))
        shared = _TILE * (_TILE + 1) * 8  # enough for float64
        self._run(
            kernel, blocks, (_TILE, 8), shared,
            src=address, sn=sn, sm=sm, st=st, dst=target, lengths=lengths, n_steps=n_steps, m=m, n=n,
        )  # fmt: skip

    def is_time_major(self, source: Array) -> bool:
        """Whether an array (n, m, T) is a view of (T, m, n) in C order."""
        n, m, _ = source.shape
        strides = zip(source.shape, self.stream.strides(source), (1, n, n * m), strict=True)
        return all(size == 1 or stride == expected for size, stride, expected in strides)

    def sum_columns(self, a: Matrix, target: int) -> None:
        """Write the column sums of a matrix to an address, in the matrix's dtype."""
        chunk, real = max(_CHUNK, -(-a.rows // _MAX_BLOCKS_Y)), real_dtype(a.dtype)
        n_chunks, tiles = -(-a.rows // chunk), -(-a.columns // _TILE)
        partial = Arena(self.stream, {"sums": ((n_chunks, a.columns), real)})
        at, threads, shared = partial.addresses["sums"], (_TILE, 8), 8 * _TILE * real.itemsize
        sizes = {"columns": a.columns, "stride": a.stride, "rows": a.rows, "chunk": chunk}
        self._run("sum_chunks", (tiles, n_chunks), threads, shared, a=a.address, sums=at, **sizes)
        sizes = {"columns": a.columns, "stride": a.columns, "rows": n_chunks, "chunk": n_chunks}
        self._run("sum_partial_sums", (tiles, 1), threads, shared, a=at, sums=target, **sizes)

    def scatter_add(self, a: Matrix, index: int, target: Matrix) -> None:
        """Write a^T times one-hot rows, whose indices are at address `index`, to a matrix."""
        sizes = {"stride": a.stride, "rows": a.rows, "columns": a.columns, "dst_stride": target.stride}
        blocks = (-(-a.columns // 128) * target.columns, 1)
        self._run("scatter_add", blocks, (128, 1), 128 * 4, a=a.address, index=index, dst=target.address, **sizes)
