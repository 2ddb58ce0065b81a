"""Devices for the checks of `gpu.py`: CuPy's current GPU, or its emulation on the CPU.

Both fill new memory with NaN, to expose reads of uninitialized memory.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "emulation")]

import rnnx  # noqa: E402
from rnnx import engines  # noqa: E402
from rnnx._core import arrays as ns  # noqa: E402

PRECISIONS = {name: name for name in ("float64", "float32", "float16", "bfloat16")} | {"tf32": "float32"}


WAIT = """
extern "C" __global__ void wait(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {}
}
"""


def dtype_of(precision):
    """Return the NumPy dtype of a precision."""
    if precision != "bfloat16":
        return np.dtype(PRECISIONS[precision])
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def products(precision):
    """Return a context manager that sets the precision of float32 products."""
    return rnnx.use_precision("tf32" if precision == "tf32" else "ieee")


class Device:
    """An array library and an engine. `counts`: loops captured, loops replayed, allocations during capture."""

    engine = ""
    xp = np

    def __init__(self):
        self.counts = {"captured": 0, "replayed": 0, "allocations during capture": 0}

    def use(self, precision="float32"):
        """Return a context manager that runs the engine, in this thread only."""
        block = contextlib.ExitStack()
        block.enter_context(rnnx.use_engine(self.engine))
        block.enter_context(products(precision))
        return block

    def stream(self):
        """Return a context manager with a new stream."""
        return contextlib.nullcontext()

    def count_replays(self, kind):
        """Count the loops that streams of a class capture and replay."""
        capture, counts = kind.capture, self.counts

        def counted(stream, work):
            again = capture(stream, work)
            if again is None:
                return None
            counts["captured"] += 1

            def replay():
                counts["replayed"] += 1
                again()

            return replay

        kind.capture = counted

    def upload(self, a, order="C"):
        """Copy a NumPy array to the device, in C or Fortran order."""
        return self.to_device(np.ascontiguousarray(a)) if order == "C" else self.to_device(np.ascontiguousarray(a.T)).T

    def to_device(self, a):
        return a.copy()

    def to_host(self, a):
        return np.array(a)

    def synchronize(self):
        """Wait for the device; raise if its context is broken."""


class Gpu(Device):
    """CuPy's current GPU. `watched`: fill new memory with NaN and count captures; both cost time."""

    engine = "gpu"

    def __init__(self, *, watched=True):
        super().__init__()
        import cupy

        self.xp, self._pool = cupy, cupy.get_default_memory_pool()
        if watched:
            from rnnx.engines.gpu import cupy_device

            self.count_replays(cupy_device.CupyStream)
            cupy.cuda.set_allocator(self._poisoned)

    def _poisoned(self, size):
        memory = self._pool.malloc(size)
        if self.xp.cuda.get_current_stream().is_capturing():
            self.counts["allocations during capture"] += 1
        elif size:
            memory.memset_async(0xFF, size)
        return memory

    def stream(self):
        return self.xp.cuda.Stream(non_blocking=True)

    def to_device(self, a):
        # As bits: CuPy's conversion of bfloat16 is not under test.
        return self.xp.asarray(a.view(np.uint16)).view(a.dtype) if a.dtype.itemsize == 2 else self.xp.asarray(a)

    def to_host(self, a):
        if a.dtype.itemsize == 2:
            return np.ascontiguousarray(a.view(np.uint16).get()).view(a.dtype)
        return a.get()

    def synchronize(self):
        self.xp.cuda.runtime.deviceSynchronize()


class Emulation(Device):
    """The engine's kernels, compiled for the CPU, on NumPy arrays."""

    engine = "emulated"

    def __init__(self):
        super().__init__()
        engines.register_engine("emulated", "emulated_engine:ENGINE", ("numpy",), default=False)
        import emulated_engine

        if os.environ.get("RNNX_CUDA_PERSISTENT") == "1":
            emulated_engine.EmulatedStream.processor = emulated_engine.PROCESSOR
        self.count_replays(emulated_engine.EmulatedStream)
        floats = frozenset(dtype_of(precision) for precision in PRECISIONS)
        ns._floats = lambda _: floats


def outcome(name, failures, detail=""):
    """Return one row of the table."""
    said = "; ".join(failures[:3]) + (f"; and {len(failures) - 3} more" if len(failures) > 3 else "")
    return {"kind": "check", "name": name, "status": "FAILED" if failures else "ok", "detail": said or detail}


def machine(options):
    """Return a row with the GPU and the versions, or the reason why there is no GPU."""
    if options["emulate"]:
        yield {"kind": "machine", "text": f"emulation on the CPU, NumPy {np.__version__}"}
        return
    try:
        import cupy
    except ImportError as error:
        yield {"kind": "absent", "text": f"no CuPy: {error}"}
        return
    if not cupy.is_available():
        yield {"kind": "absent", "text": "CuPy finds no GPU"}
        return
    from rnnx.engines.gpu import cupy_device

    with cupy_device.stream_of(cupy.zeros(1, cupy.float32)) as stream:
        precision = stream.precision
    runtime = cupy.cuda.runtime
    said = [
        runtime.getDeviceProperties(0)["name"].decode(),
        f"driver {_driver()} (CUDA {runtime.driverGetVersion()})",
        f"runtime {runtime.runtimeGetVersion()}",
        f"CuPy {cupy.__version__}",
        f"NumPy {np.__version__}",
        f"default precision of float32 products: {precision}",
    ]
    yield {"kind": "machine", "text": ", ".join(said)}


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return "unknown"


CHILDREN = {"machine": machine}
