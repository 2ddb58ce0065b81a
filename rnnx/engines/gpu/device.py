"""What the GPU engine asks of a device: memory, products, kernels, and a recording of them. No library here.

`cupy_device` answers it with CuPy; the tests answer it on the CPU, with kernels compiled by a C++ compiler.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]  # arrays by name
ALIGNMENT = 256  # bytes


class Matrix(NamedTuple):
    """A row-major matrix in device memory, or its transpose."""

    address: int
    rows: int
    columns: int
    stride: int  # elements from row to row
    dtype: np.dtype
    transposed: bool = False

    @property
    def T(self) -> "Matrix":
        """The transpose; no copy."""
        return Matrix(self.address, self.rows, self.columns, self.stride, self.dtype, not self.transposed)

    def part(self, first: int, columns: int) -> "Matrix":
        """So many columns of a matrix that is not transposed, from `first` on."""
        return self._replace(address=self.address + first * self.dtype.itemsize, columns=columns)

    def below(self, first: int, rows: int) -> "Matrix":
        """So many rows of a matrix that is not transposed, from `first` on."""
        return self._replace(address=self.address + first * self.stride * self.dtype.itemsize, rows=rows)


class Moving(NamedTuple):
    """A matrix that is elsewhere at every step."""

    matrix: Matrix  # at step 0
    step: int  # bytes

    def at(self, t: int) -> Matrix:
        """The matrix at step t."""
        return self.matrix._replace(address=self.matrix.address + t * self.step)


class Queue(ABC):
    """Work on one stream of one device, done in the order in which it is asked for. Nothing here waits for it."""

    def __init__(self) -> None:
        self.plans: Any = None  # what the engine keeps from call to call

    @abstractmethod
    def allocate(self, size: int) -> Any:
        """Memory of `size` bytes, aligned; it lives as long as something refers to it."""

    @abstractmethod
    def array(self, memory: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """An array in C order in such memory, which it keeps alive."""

    @abstractmethod
    def base(self, memory: Any) -> int:
        """Where the memory begins."""

    @abstractmethod
    def address(self, array: Array) -> int:
        """Where an array begins."""

    @abstractmethod
    def strides(self, array: Array) -> tuple[int, ...]:
        """Elements from one to the next in each dimension."""

    @abstractmethod
    def references(self, memory: Any) -> int | None:
        """How many objects refer to the memory; None if nobody counts."""

    @abstractmethod
    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int = 0) -> None:
        """C = A B + beta C, accumulated in what `codegen.real_dtype` says; C is not transposed."""

    @abstractmethod
    def kernels(self, texts: tuple[str, ...], options: tuple[str, ...]) -> Callable[..., None]:
        """``launch(name, blocks, threads, arguments, shared=0)`` of the kernels of CUDA sources.

        `blocks` and `threads` are (x, y); arguments are integers; `shared` counts bytes.
        """

    @abstractmethod
    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """What does the same work again, with the same addresses; None if it cannot be recorded. Nothing is done."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Of products of float32: "ieee" or "tf32"."""

    @property
    @abstractmethod
    def clusters(self) -> int:
        """Bytes of shared memory of a block, if whole passes may be done by clusters of blocks; else 0."""

    @property
    @abstractmethod
    def records(self) -> bool:
        """Whether `record` may succeed."""

    @property
    @abstractmethod
    def room(self) -> int:
        """Bytes that may be kept from call to call."""


class Arena:
    """Arrays side by side in one piece of device memory, by name."""

    def __init__(self, queue: Queue, arrays: Shapes) -> None:
        self.queue, self._arrays, self._offsets, size = queue, dict(arrays), {}, 0
        for name, (shape, dtype) in arrays.items():
            self._offsets[name] = size
            size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self.size = size
        self.memory = queue.allocate(max(size, 1))
        base = queue.base(self.memory)
        self._addresses = {name: base + offset for name, offset in self._offsets.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._addresses

    def address(self, name: str) -> int:
        """Where an array begins; 0 if there is none of that name."""
        return self._addresses.get(name, 0)

    def array(self, name: str) -> Array:
        """A new array object."""
        shape, dtype = self._arrays[name]
        return self.queue.array(self.memory, self._offsets[name], shape, dtype)

    def matrix(self, name: str) -> Matrix:
        """An array as a matrix, its last dimension in a row."""
        shape, dtype = self._arrays[name]
        columns = shape[-1]
        return Matrix(self._addresses[name], math.prod(shape) // columns, columns, columns, dtype)
