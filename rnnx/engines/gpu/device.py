"""The interface of a GPU device, independent of the array library: memory, products, kernels and CUDA graphs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = Any
DType = np.dtype[Any]
Launch = Callable[..., None]  # (name, blocks, threads, arguments, shared=0); see `DeviceStream.kernels`
Shapes = dict[str, tuple[tuple[int, ...], DType]]  # shape and dtype of arrays by name
ALIGNMENT = 256  # bytes


class Matrix(NamedTuple):
    """A row-major matrix in device memory, or its transpose, at an address that may depend on the time step."""

    address: int
    rows: int
    columns: int
    stride: int  # elements from one row to the next
    dtype: DType
    transposed: bool = False
    step: int = 0  # bytes from one time step to the next

    def at(self, t: int) -> "Matrix":
        """Return the matrix at step t."""
        return self._replace(address=self.address + t * self.step)

    @classmethod
    def of(cls, address: int, shape: tuple[int, ...], dtype: DType) -> "Matrix":
        """Return an array in C order as a matrix with one row per vector along the last dimension."""
        return cls(address, math.prod(shape[:-1]), shape[-1], shape[-1], dtype)

    @property
    def T(self) -> "Matrix":
        """The transpose, without a copy."""
        return self._replace(transposed=not self.transposed)

    def block(self, row: int, rows: int, column: int, columns: int) -> "Matrix":
        """Return a submatrix; the matrix must not be transposed."""
        offset = (row * self.stride + column) * self.dtype.itemsize
        return self._replace(address=self.address + offset, rows=rows, columns=columns)


class Stack(NamedTuple):
    """Several products of matrices at equal distances."""

    n: int  # products
    distances: tuple[int, int, int]  # in elements, from one matrix to the next: of A, B and C


ONE = Stack(1, (0, 0, 0))


class StepArgument(NamedTuple):
    """A kernel argument, an address or a number, that grows by `step` per time step."""

    base: int  # at step 0
    step: int = 0


class Processor(NamedTuple):
    """What persistent kernels depend on, see `geometry`."""

    capability: int  # compute capability, such as 90
    multiprocessors: int
    shared_bytes: int  # of a block, at most
    persistent: bool | None = None  # whether to use persistent kernels wherever they fit, or never; None: by estimate
    grids: bool = True  # whether a kernel can be launched so that all of its blocks run at the same time


class DeviceStream(Protocol):
    """One stream of one device. All calls are asynchronous and run in order."""

    precision: str  # of float32 products: "ieee" or "tf32"
    can_capture: bool  # whether `capture` may succeed
    processor: Processor | None  # None: without persistent kernels
    graphs: Any  # a `graphs.GraphCache` of this stream

    def allocate(self, size: int) -> Any:
        """Allocate `size` bytes of aligned memory, freed with its last reference."""

    def array(
        self, memory: Any, offset: int, shape: tuple[int, ...], dtype: DType, strides: tuple[int, ...] | None = None
    ) -> Array:
        """Return an array inside memory, which it keeps alive, with strides in bytes; by default in C order."""

    def base(self, memory: Any) -> int:
        """Return the address of the memory."""

    def address(self, array: Array) -> int:
        """Return the address of an array's first element."""

    def strides(self, array: Array) -> tuple[int, ...]:
        """Return the strides of an array, in elements."""

    def place(self, array: Array) -> tuple[int, ...]:
        """Return the address and the strides of an array, in bytes."""

    def send(self, numbers: Sequence[int], address: int) -> None:
        """Write 64-bit integers to device memory. They are read before this returns, and written in stream order."""

    def reference(self, memory: Any) -> Any:
        """Return a reference that `references` counts."""

    def references(self, memory: Any) -> int | None:
        """Return the reference count of the memory; None if the interpreter does not count references."""

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int = 0, stack: Stack = ONE) -> None:
        """Compute C = A B + beta C, accumulated in `kernel.real_dtype`. C must not be transposed.

        With `stack`, the matrices are the first ones of several such products.
        """

    def kernels(self, texts: tuple[str, ...], options: tuple[str, ...]) -> Launch:
        """Compile CUDA sources; return ``launch(name, blocks, threads, arguments, shared=0)`` for their kernels.

        `blocks` and `threads` are (x, y), `arguments` are integers, `shared` is in bytes.
        """

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Capture `work` in a CUDA graph without running it; return a function that replays it, or None on failure."""

    def graph_memory(self) -> int:
        """Return the number of bytes that captured passes may hold between calls."""


class View(NamedTuple):
    """An array in a block of memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: DType
    strides: tuple[int, ...] | None  # in bytes; None: C order


class Results:
    """The results of a pass, in one new block of memory per call."""

    def __init__(self) -> None:
        self.size, self.views = 0, dict[str, View]()

    def add(self, name: str, shape: tuple[int, ...], dtype: DType, *, reversed_axes: bool = False) -> int:
        """Add an array, or, with `reversed_axes`, its transpose; return its offset."""
        offset, strides = self.size, None
        if reversed_axes:
            strides = tuple(math.prod(shape[i + 1 :]) * dtype.itemsize for i in reversed(range(len(shape))))
        self.size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.views[name] = View(offset, shape[::-1] if reversed_axes else shape, dtype, strides)
        return offset

    def allocate(self, stream: DeviceStream) -> Any:
        """Return new memory."""
        return stream.allocate(max(self.size, 1))

    def array(self, stream: DeviceStream, memory: Any, name: str) -> Array:
        """Return an array in memory."""
        return stream.array(memory, *self.views[name])

    def arrays(self, stream: DeviceStream, memory: Any) -> dict[str, Array]:
        """Return the arrays in memory by name."""
        return {name: stream.array(memory, *view) for name, view in self.views.items()}


class Arena:
    """Named arrays in one block of device memory."""

    def __init__(self, stream: DeviceStream, arrays: Shapes) -> None:
        self.stream, self._arrays, self._offsets, self.size = stream, arrays, dict[str, int](), 0
        for name, (shape, dtype) in arrays.items():
            self._offsets[name] = self.size
            self.size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.memory = stream.allocate(max(self.size, 1))
        base = stream.base(self.memory)
        self.addresses = {name: base + offset for name, offset in self._offsets.items()}

    def array(self, name: str) -> Array:
        """Return a new array object."""
        return self.stream.array(self.memory, self._offsets[name], *self._arrays[name])

    def matrix(self, name: str) -> Matrix:
        """Return an array as a matrix, see `Matrix.of`."""
        return Matrix.of(self.addresses[name], *self._arrays[name])
