"""CuPy's driver calls without a driver, for tests of `rnnx.engines.gpu.cupy_device`.

Arrays are CuPy's own, around memory of the host. Kernels run in the emulator, products in Python, and what a call would
have asked of the driver is counted.
"""

import ctypes
from collections import Counter
from typing import ClassVar

import numpy as np

from rnnx.engines.gpu import sending
from rnnx.engines.gpu.cublas import Blas
from rnnx.engines.gpu.kernel import cooperative, kernel_names


class FakeBlas:
    """cuBLAS on the host, column-major."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def function(*arguments):
            self.calls.append((name, arguments))
            return 0

        return function

    def cublasGemmEx(
        self, handle, ta, tb, m, n, k, alpha, a, kind_a, lda, b, kind_b, ldb, beta, c, kind_c, ldc, how, _
    ):
        self.calls.append(("gemm", (kind_a, kind_b, kind_c, how)))
        self._multiply(ta, tb, m, n, k, alpha, a, kind_a, lda, b, kind_b, ldb, beta, c, kind_c, ldc)
        return 0

    def cublasGemmStridedBatchedEx(
        self, handle, ta, tb, m, n, k, alpha, a, kind_a, lda, of_a, b, kind_b, ldb, of_b, beta, c, kind_c, ldc, of_c,
        count, how, _
    ):  # fmt: skip
        self.calls.append(("gemm", (kind_a, kind_b, kind_c, how)))
        size = {0: 4, 1: 8}[kind_a]
        for i in range(count):
            at = (a + i * of_a * size, b + i * of_b * size, c + i * of_c * size)
            self._multiply(ta, tb, m, n, k, alpha, at[0], kind_a, lda, at[1], kind_b, ldb, beta, at[2], kind_c, ldc)
        return 0

    def _multiply(self, ta, tb, m, n, k, alpha, a, kind_a, lda, b, kind_b, ldb, beta, c, kind_c, ldc):
        """Add the products of one k after another, in double precision."""
        left = _matrix(a, kind_a, k, m, lda).T if ta else _matrix(a, kind_a, m, k, lda)
        right = _matrix(b, kind_b, n, k, ldb).T if tb else _matrix(b, kind_b, k, n, ldb)
        target, total = _matrix(c, kind_c, m, n, ldc), np.zeros((m, n))
        with np.errstate(all="ignore"):
            for p in range(k):
                total += left[:, p, None].astype(float) * right[p]
            before = beta.contents.value * target.astype(float) if beta.contents.value else 0
            target[...] = alpha.contents.value * total + before


def _matrix(address, kind, rows, columns, stride):
    """A matrix in memory, column-major."""
    number = {0: ctypes.c_float, 1: ctypes.c_double}[kind]
    size = max((columns - 1) * stride + rows, 0) if rows * columns else 0
    flat = np.frombuffer((number * size).from_address(address), number)
    item = ctypes.sizeof(number)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (item, stride * item))


class CountedBlas(FakeBlas):
    """Products are driver calls of the current stream."""

    def cublasGemmEx(self, *arguments):
        FakeCupy.stream.do("gemm", lambda: FakeBlas.cublasGemmEx(self, *arguments))
        return 0

    def cublasGemmStridedBatchedEx(self, *arguments):
        FakeCupy.stream.do("gemm", lambda: FakeBlas.cublasGemmStridedBatchedEx(self, *arguments))
        return 0


class FakeStream:
    def __init__(self, ptr=0, non_blocking=False):
        self.ptr = 77 if non_blocking else ptr
        self.captured = None
        self.before = []

    def is_capturing(self):
        FakeCupy.calls["streamIsCapturing"] += 1
        return self.captured is not None

    def __enter__(self):
        self.before.append(FakeCupy.stream)
        FakeCupy.stream = self
        return self

    def __exit__(self, *_):
        FakeCupy.stream = self.before.pop()

    def begin_capture(self):
        self.captured = []

    def end_capture(self):
        graph, self.captured = FakeGraph(self.captured), None
        if FakeCupy.error:
            raise RuntimeError(FakeCupy.error)
        return graph

    def do(self, name, work):
        """Count a driver call, and do the work, unless it is captured."""
        if self.captured is None:
            FakeCupy.calls[name] += 1
            work()
        else:
            self.captured.append(work)


class FakeGraph:
    def __init__(self, nodes):
        self.nodes = nodes

    def launch(self):
        FakeCupy.calls["graphLaunch"] += 1
        FakeCupy.log.append(("graph", FakeCupy.stream.ptr))
        for node in self.nodes:
            node()


class FakeKernel:
    """A kernel that runs in the emulator."""

    handles: ClassVar = {}
    max_dynamic_shared_size_bytes = 0

    def __init__(self, name, text, options):
        self.name, self.text, self.options = name, text, options
        self.kernel = type("Function", (), {"ptr": 1000 + len(self.handles)})
        self.handles[self.kernel.ptr] = self

    def __call__(self, blocks, threads, arguments, shared_mem=0):
        from emulated_engine import SEED, compiled

        function = getattr(compiled(self.text, self.options), f"{self.name}_emulated")
        numbers = (ctypes.c_int64 * len(arguments))(*arguments)
        status = lambda: function(*blocks, *threads, ctypes.c_size_t(shared_mem), SEED, numbers)  # noqa: E731
        FakeCupy.stream.do("launchKernel", lambda: _check(status()))


def _check(status):
    assert status == 0


class FakeModule:
    def __init__(self, code, options, enable_cooperative_groups):
        assert kernel_names(code)
        assert enable_cooperative_groups == cooperative(code)
        self.code, self.options = code, options

    def get_function(self, name):
        return FakeKernel(name, self.code, self.options)


def launch_kernel(handle, *rest):
    """Run a kernel of `rnnx.engines.gpu.sending`, whose arguments are read at once."""
    *size, stream, arguments, extra = rest
    assert size == [1, 1, 1, sending.THREADS, 1, 1, 0]
    assert (stream, extra) == (FakeCupy.stream.ptr, 0)
    name = FakeKernel.handles[handle].name
    numbers, target, count = (ctypes.c_void_p * 3).from_address(arguments)
    target, count = ctypes.c_int64.from_address(target).value, ctypes.c_int64.from_address(count).value
    assert count <= int(name.removeprefix("send_"))
    sent = bytes((ctypes.c_int64 * count).from_address(numbers))
    FakeCupy.stream.do("launchKernel", lambda: ctypes.memmove(target, sent, len(sent)))


class FakeCupy:
    """The part of CuPy that `cupy_device` uses, with one device."""

    stream, error, log, calls = FakeStream(), None, [], Counter()
    RawModule = FakeModule

    class cuda:
        Stream = FakeStream

        class Device:
            compute_capability = "90"

            def __init__(self, number=0):
                self.id = number
                self.attributes = {"MaxSharedMemoryPerBlockOptin": 232448, "MultiProcessorCount": 132}
                self.attributes["CooperativeLaunch"] = 1

            def __enter__(self):
                pass

            def __exit__(self, *_):
                pass

        class runtime:
            @staticmethod
            def memGetInfo():
                return 1 << 33, 1 << 34

        class driver:
            launchKernel = staticmethod(launch_kernel)

            room = 1  # blocks of a multiprocessor

            @staticmethod
            def funcSetAttribute(*_):
                pass

            @classmethod
            def occupancyMaxActiveBlocksPerMultiprocessor(cls, kernel, threads, shared):
                assert kernel in FakeKernel.handles
                return cls.room

        @staticmethod
        def get_device_id():
            return 0

        @staticmethod
        def get_current_stream():
            return FakeCupy.stream

        @staticmethod
        def alloc(size):
            return on_host(np.full(size + 512, 0xFF, np.uint8), size)


def on_host(memory, size):
    """Return host memory as CuPy's, aligned."""
    from cupy.cuda import MemoryPointer, UnownedMemory

    start = memory.ctypes.data + -memory.ctypes.data % 256
    return MemoryPointer(UnownedMemory(start, size, memory, 0), 0)


def upload(array, order="C"):
    """Copy a NumPy array to a new CuPy array."""
    import cupy

    made = cupy.ndarray(array.shape, array.dtype, FakeCupy.cuda.alloc(max(array.nbytes, 1)), order=order)
    download(made)[...] = array
    return made


def download(array):
    """Return a CuPy array as one of NumPy, a view."""
    low = sum(min(0, (n - 1) * stride) for n, stride in zip(array.shape, array.strides, strict=True))
    size = sum(abs((n - 1) * stride) for n, stride in zip(array.shape, array.strides, strict=True)) + array.itemsize
    memory = (ctypes.c_char * size).from_address(array.data.ptr + low)
    return np.ndarray(array.shape, array.dtype, memory, -low, array.strides)


def install(monkeypatch):
    """Let `cupy_device` use the fake; return the module and the cuBLAS library."""
    import cupy

    from rnnx.engines.gpu import cupy_device

    monkeypatch.setattr(FakeCupy, "ndarray", cupy.ndarray, raising=False)
    library = CountedBlas()
    monkeypatch.setattr(cupy_device, "cupy", FakeCupy)
    monkeypatch.setattr(cupy_device, "Blas", lambda: Blas(library))
    monkeypatch.setattr(cupy_device, "_devices", {})
    for cached in (cupy_device._module, cupy_device._launch):
        cached.cache_clear()
    for name, value in {"stream": FakeStream(), "error": None, "log": [], "calls": Counter()}.items():
        monkeypatch.setattr(FakeCupy, name, value)
    return cupy_device, library
