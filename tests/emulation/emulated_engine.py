"""The GPU engine on the CPU: its own kernels, compiled by a C++ compiler, on NumPy arrays.

New memory is NaN. A captured graph holds addresses, as a CUDA graph does, and capture itself computes nothing.
"""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
from session_locks import alone

from rnnx.engines.gpu import device, engine, graphs
from rnnx.engines.gpu.kernel import cooperative, declared, kernel_names, real_dtype

COMPILER = shutil.which("g++")
HERE = Path(__file__).parent
FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w")
SEED = 1  # for the order of the threads and the delay of messages
PROCESSOR = device.Processor(capability=90, multiprocessors=132, shared_bytes=227 << 10, persistent=True)  # an H100
_PLAIN = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


def compiled(source, options=()):
    """The kernels of a CUDA source: ``<name>_emulated(x, y, tx, ty, shared, seed, arguments)``."""
    text = '#include "emulator.h"\n' + source
    for name in kernel_names(source):
        parameters = declared(source, name).parameters
        given = ", ".join(f"({parameter.rsplit(' ', 1)[0]})a[{i}]" for i, parameter in enumerate(parameters))
        body = re.search(rf"void (?:__\w+\([^)]*\) )*{name}\(.*?\n}}\n", source, re.DOTALL).group()
        barriers = re.search(r"RNNX_SHARED|__syncthreads|sum_columns", body)
        cluster = re.search(r"__cluster_dims__\((\d+), 1, 1\)", body)
        size = cluster[1] if cluster else 1
        together = "x" if cooperative(source) else size
        with_fibers = f"launch(x, y, tx, ty, shared, {together}, {size}, seed, work, a)"
        launch = with_fibers if barriers else "launch_plain(x, y, tx, ty, work, a)"
        text += f"""
extern "C" int {name}_emulated(unsigned x, unsigned y, unsigned tx, unsigned ty, size_t shared, unsigned seed,
                               const i64* a) {{
  const auto work = [](const i64* a) {{ {name}({given}); }};
  return emulator::{launch};
}}
"""
    return _library(text, tuple("-ffp-contract=off" if one == "-fmad=false" else one for one in options))


@cache
def _library(text, options):
    target = _folder() / f"{_hash(text, options)}.so"
    _compile(target, f"-I{target.parent}", f"-I{HERE}", *options, "-x", "c++", "-", text=text)
    return ctypes.CDLL(str(target))


@cache
def _folder():
    """The folder of the libraries; what they all call is loaded."""
    source = HERE / "emulator.cpp"
    texts = [path.read_text() for path in (source.with_suffix(".h"), source)]
    folder = Path(os.environ["RNNX_CACHE_DIR"]) / f"emulation-{_hash(texts, FLAGS)}"
    folder.mkdir(parents=True, exist_ok=True)
    _compile(folder / "emulator.so", source)
    _compile(folder / "emulator.h.gch", "-x", "c++-header", source.with_suffix(".h"))  # a precompiled header
    ctypes.CDLL(str(folder / "emulator.so"), ctypes.RTLD_GLOBAL)
    return folder


def _hash(*values):
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


def _compile(target, *arguments, text=""):
    """Compile to a file, unless it is there or another process is making it."""
    with alone(target.name):
        if not target.exists():
            made = target.with_suffix(".part")
            subprocess.run([COMPILER, *FLAGS, *arguments, "-o", made], input=text.encode(), check=True)
            made.replace(target)


class EmulatedStream(device.DeviceStream):
    """A stream that computes at once."""

    def __init__(self):
        self.graphs = graphs.GraphCache(self)
        self.captured = None  # a list while a graph is captured
        self.log = []  # the names of all calls
        self._kernels = {}

    def allocate(self, size):
        memory = np.empty(size + device.ALIGNMENT, np.uint8)
        memory[...] = 0xFF  # NaN in every dtype
        return memory

    def base(self, memory):
        return memory.ctypes.data + -memory.ctypes.data % device.ALIGNMENT

    def array(self, memory, offset, shape, dtype, strides=None):
        start = self.base(memory) - memory.ctypes.data + offset
        return np.ndarray(shape, dtype, memory, start, strides)

    def place(self, array):
        return (array.ctypes.data, *array.strides)

    def send(self, numbers, address):
        assert self.captured is None  # a graph would send the same numbers again
        values = (ctypes.c_int64 * len(numbers))(*numbers)
        self._do("send", lambda: ctypes.memmove(address, values, ctypes.sizeof(values)))

    def address(self, array):
        return array.ctypes.data

    def strides(self, array):
        assert all(s % array.itemsize == 0 for s in array.strides)
        return tuple(s // array.itemsize for s in array.strides)

    def reference(self, memory):
        return memory

    def references(self, memory):
        return sys.getrefcount(memory)

    def _do(self, name, work):
        self.log.append(name)
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def gemm(self, a, b, c, beta=0, stack=device.ONE):
        assert not c.transposed
        assert min(a.stride, b.stride, c.stride) >= 1

        def products():
            for k in range(stack.n):
                self._gemm(*(_moved(one, k * by) for one, by in zip((a, b, c), stack.distances, strict=True)), beta)

        self._do("gemm", products)

    def _gemm(self, a, b, c, beta):
        A, B, C = map(_view, (a, b, c))
        wide = real_dtype(a.dtype)
        product = A.astype(wide) @ B.astype(wide)
        C[...] = product if beta == 0 else C.astype(wide) + product

    def kernels(self, texts, options):
        if (texts, options) not in self._kernels:
            libraries = [compiled(text, options) for text in texts]

            def launch(name, blocks, threads, arguments, shared=0):
                entry = f"{name}_emulated"
                function = next(getattr(one, entry) for one in libraries if hasattr(one, entry))
                numbers = (ctypes.c_int64 * len(arguments))(*arguments)
                assert shared <= 227 << 10
                assert threads[0] * threads[1] <= 1024
                work = lambda: function(*blocks, *threads, ctypes.c_size_t(shared), SEED, numbers)  # noqa: E731
                self._do(name, lambda: _check(work()))

            self._kernels[texts, options] = launch
        return self._kernels[texts, options]

    def capture(self, work):
        self.captured = graph = []
        try:
            work()
        finally:
            self.captured = None

        def replay():
            self.log.append("graph")
            for one in graph:
                one()

        return replay

    precision = "ieee"
    processor = None
    can_capture = True
    memory = 1 << 30

    def graph_memory(self):
        return self.memory


def _check(status):
    assert status == 0, ["", "deadlock", "a message came after its block had ended"][status]


def _moved(matrix, elements):
    return matrix._replace(address=matrix.address + elements * matrix.dtype.itemsize)


def _view(matrix):
    """A matrix as a NumPy array."""
    size = (matrix.rows - 1) * matrix.stride + matrix.columns
    kind = matrix.dtype
    memory = (ctypes.c_char * (size * kind.itemsize)).from_address(matrix.address)
    flat = np.frombuffer(memory, kind)
    strides = (matrix.stride * kind.itemsize, kind.itemsize)
    array = np.lib.stride_tricks.as_strided(flat, (matrix.rows, matrix.columns), strides)
    return array.T if matrix.transposed else array


stream = EmulatedStream()
_lock = threading.RLock()


@contextlib.contextmanager
def _opened(array):
    del array
    with _lock:
        yield stream


ENGINE = engine.GpuEngine(_opened)
