"""Launches of the kernels of ``kernels/layout.cu``, which are common to all cells."""

from rnnx.cells import Cell
from rnnx.engines.gpu.codegen import sources
from rnnx.engines.gpu.device import Array, DeviceStream, DType, Matrix
from rnnx.engines.gpu.kernel import declared, options, read, real_dtype

_TILE = 32
_CHUNK = 512  # rows per partial sum
_MAX_BLOCKS_Y = 65535


def partial_sums(rows: int, columns: int) -> tuple[int, int]:
    """Return the shape of the partial sums of a matrix, of `real_dtype`."""
    return -(-rows // max(_CHUNK, -(-rows // _MAX_BLOCKS_Y))), columns


class Launcher:
    """The compiled kernels of a cell, and launches of the common ones."""

    def __init__(self, stream: DeviceStream, cell: Cell, dtype: DType) -> None:
        self.stream = stream
        self.launch = stream.kernels(sources(cell), options(dtype))

    def _run(self, kernel: str, blocks: tuple[int, int], threads: tuple[int, int], shared: int, **values: int) -> None:
        self.launch(kernel, blocks, threads, declared(read("layout.cu"), kernel).bind(values), shared)

    def is_time_major(self, source: Array) -> bool:
        """Whether an array (n, m, T) is a view of (T, m, n) in C order."""
        n, m, _ = source.shape
        strides = zip(source.shape, self.stream.strides(source), (1, n, n * m), strict=True)
        return all(size == 1 or stride == expected for size, stride, expected in strides)

    def sum_columns(self, a: Matrix, target: int, partial: int) -> None:
        """Write the column sums of a matrix to an address, in the matrix's dtype. `partial` has `partial_sums(a)`."""
        rows, columns = partial_sums(a.rows, a.columns)
        chunk, real = max(_CHUNK, -(-a.rows // _MAX_BLOCKS_Y)), real_dtype(a.dtype)
        tiles, threads, shared = -(-a.columns // _TILE), (_TILE, 8), 8 * _TILE * real.itemsize
        sizes = {"columns": columns, "stride": a.stride, "rows": a.rows, "chunk": chunk}
        self._run("sum_chunks", (tiles, rows), threads, shared, a=a.address, sums=partial, **sizes)
        sizes = {"columns": columns, "stride": columns, "rows": rows, "chunk": rows}
        self._run("sum_partial_sums", (tiles, 1), threads, shared, a=partial, sums=target, **sizes)

    def scatter_add(self, a: Matrix, index: int, target: Matrix) -> None:
        """Write a^T times one-hot rows, whose indices are at address `index`, to a matrix."""
        sizes = {"stride": a.stride, "rows": a.rows, "columns": a.columns, "dst_stride": target.stride}
        blocks = (-(-a.columns // 128) * target.columns, 1)
        self._run("scatter_add", blocks, (128, 1), 128 * 4, a=a.address, index=index, dst=target.address, **sizes)
