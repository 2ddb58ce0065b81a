"""Matrix products by cuBLAS, called directly.

CuPy refuses to call cuBLAS during stream capture, and copies submatrices. nvmath-python depends on cuda-bindings,
cuda-core and a matching CUDA version. The few functions used here have not changed since CUDA 12.
"""

import ctypes
from typing import Any

from rnnx._core.devices import install_cuda
from rnnx.engines.gpu.device import ONE, Matrix, Stack

# Constants from cublas_api.h and library_types.h.
_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
_COMPUTE_32F, _COMPUTE_32F_FAST_TF32, _COMPUTE_64F = 68, 77, 70
_DEFAULT_ALGORITHM = -1
_ONE, _STACK = "cublasGemmEx", "cublasGemmStridedBatchedEx"
_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16  # float32 partial sums of 16-bit products
_LARGEST_INT = 2**31 - 1
WORKSPACE = 32 << 20  # bytes; NVIDIA's recommendation for Hopper


def load() -> ctypes.CDLL:
    """Load the cuBLAS library that CuPy uses."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = load_nvidia_dynamic_lib("cublas").abs_path
    if found is None:
        raise ImportError(f"cuBLAS not found: {install_cuda()}")
    library = ctypes.CDLL(found)
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasSetMathMode.argtypes = [pointer, integer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    for end, size in (("", integer), ("_64", ctypes.c_int64)):
        for name, distance, count in ((_ONE, (), ()), (_STACK, (ctypes.c_int64,), (size,))):
            getattr(library, name + end).argtypes = [
                *(pointer, integer, integer, size, size, size),  # handle, transa, transb, m, n, k
                *(pointer, pointer, integer, size, *distance),  # alpha; a: address, type, stride
                *(pointer, integer, size, *distance),  # b
                *(pointer, pointer, integer, size, *distance, *count),  # beta; c
                *(integer, integer),  # compute type, algorithm
            ]
    return library


class Blas:
    """A cuBLAS handle for the current device. Not thread-safe."""

    def __init__(self, library: Any = None) -> None:
        self._library = load() if library is None else library
        self._handle = ctypes.c_void_p()
        self._in_use: tuple[int, int] | None = None
        self._check("cublasCreate_v2", ctypes.byref(self._handle))
        self._check("cublasSetMathMode", self._handle, _MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)
        numbers = {4: ctypes.c_float, 8: ctypes.c_double}
        self._numbers = {size: [ctypes.pointer(kind(x)) for x in (0, 1)] for size, kind in numbers.items()}

    def _check(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function} failed with status {status}")

    def use(self, stream: int, workspace: int) -> None:
        """Set the stream and then, because that resets it, the workspace of `WORKSPACE` bytes, unless they are set."""
        if (stream, workspace) == self._in_use:
            return
        self._in_use = None
        self._check("cublasSetStream_v2", self._handle, stream)
        self._check("cublasSetWorkspace_v2", self._handle, workspace, WORKSPACE)
        self._in_use = stream, workspace

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int, *, tf32: bool, stack: Stack = ONE) -> None:
        """Compute C = A B + beta C. cuBLAS is column-major, so it computes the transpose, B^T A^T."""
        size, inner = a.dtype.itemsize, a.rows if a.transposed else a.columns
        compute = {2: _COMPUTE_32F, 4: _COMPUTE_32F_FAST_TF32 if tf32 else _COMPUTE_32F, 8: _COMPUTE_64F}[size]
        numbers = self._numbers[max(size, 4)]
        types = [_TYPES[matrix.dtype.name] for matrix in (b, a, c)]
        # Sizes beyond 32 bits need the 64-bit interface.
        large = max(c.rows, c.columns, inner, a.stride, b.stride, c.stride, stack.n) > _LARGEST_INT
        several = stack.n > 1
        of_a, of_b, of_c = ((distance,) if several else () for distance in stack.distances)
        self._check(
            (_STACK if several else _ONE) + ("_64" if large else ""),
            *(self._handle, int(b.transposed), int(a.transposed), c.columns, c.rows, inner),
            *(numbers[1], b.address, types[0], b.stride, *of_b, a.address, types[1], a.stride, *of_a),
            *(numbers[beta], c.address, types[2], c.stride, *of_c),
            *((stack.n,) if several else ()),
            *(compute, _DEFAULT_ALGORITHM),
        )
