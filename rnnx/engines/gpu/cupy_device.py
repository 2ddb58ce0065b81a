# ruff: noqa: D102 - methods are documented in `DeviceStream`
"""CuPy devices. Work is queued on CuPy's current stream, on the device of the arrays."""

import contextlib
import os
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cupy
from cupy._core import _routines_linalg as _linalg  # the only way to read the CUPY_TF32 setting

from rnnx.engines.gpu import codegen, precision
from rnnx.engines.gpu.cublas import WORKSPACE, Blas
from rnnx.engines.gpu.device import DeviceStream, DType, Launch, Matrix
from rnnx.engines.gpu.engine import GpuEngine
from rnnx.engines.gpu.graphs import GraphCache
from rnnx.engines.protocol import Engine

_MAX_STREAMS = 16  # per device, for programs that keep creating streams
_DEFAULT_SHARED = 48 << 10  # bytes of dynamic shared memory that a kernel may use without opting in
_PER_THREAD = 2  # handle of CUDA's per-thread default stream

# Whether the interpreter counts references.
_COUNTS_REFERENCES = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()


class _Device:
    """What the streams of a device share. The lock is held while a pass is queued."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blas = Blas()
        self.streams: OrderedDict[Any, CupyStream] = OrderedDict()
        self.can_capture = os.environ.get("RNNX_CUDA_GRAPHS", "1") != "0"
        self.graph_memory = int(cupy.cuda.runtime.memGetInfo()[1]) // 16
        clusters = os.environ.get("RNNX_CUDA_CLUSTERS", "0") == "1"
        clusters = int(cupy.cuda.Device().compute_capability) >= 90 and clusters
        shared = "MaxSharedMemoryPerBlockOptin"
        self.cluster_shared_bytes = int(cupy.cuda.Device().attributes[shared]) if clusters else 0


_devices: dict[int, _Device] = {}
_devices_lock = threading.Lock()


@contextlib.contextmanager
def stream_of(array: Any) -> Iterator["CupyStream"]:
    """Lock the device of an array and yield its current stream."""
    number = array.device.id
    with cupy.cuda.Device(number):
        with _devices_lock:
            device = _devices.get(number)
            if device is None:
                device = _devices[number] = _Device()
        stream = cupy.cuda.get_current_stream()
        key = (stream.ptr, threading.get_ident()) if stream.ptr == _PER_THREAD else stream.ptr
        with device.lock:
            own = device.streams.get(key)
            if own is None:
                own = device.streams[key] = CupyStream(device)
                if len(device.streams) > _MAX_STREAMS:
                    device.streams.popitem(last=False)
            device.streams.move_to_end(key)
            own.enter(stream)
            yield own


@lru_cache(maxsize=256)
def _module(device: int, text: str, options: tuple[str, ...]) -> dict[str, Any]:
    """Compile a source and load its kernels, by name, because kernels cannot be loaded during capture."""
    del device
    module = cupy.RawModule(code=text, options=options)
    return {name: module.get_function(name) for name in codegen.kernel_names(text)}


def _precision() -> str:
    """Return the precision set by `rnnx.use_precision`, by default CuPy's setting."""
    chosen = precision.chosen.get()
    if chosen is not None:
        return chosen
    return "tf32" if _linalg.get_compute_type("float32") == _linalg.COMPUTE_TYPE_TF32 else "ieee"


class CupyStream(DeviceStream):
    """A CuPy stream."""

    def __init__(self, device: _Device) -> None:
        self._device, self.graphs = device, GraphCache(self)
        self.cluster_shared_bytes = device.cluster_shared_bytes
        self._workspace = cupy.cuda.alloc(WORKSPACE)
        self._launchers: dict[Any, Launch] = {}
        self._stream: Any = None

    def enter(self, stream: Any) -> None:
        """Prepare for calls on `stream`, CuPy's current stream."""
        if stream.is_capturing():  # replays would write to temporary memory that may have been freed
            raise RuntimeError("calls of rnnx cannot be captured in a CUDA graph: rnnx captures its own loops")
        self._stream, self.precision, self.can_capture = stream, _precision(), self._device.can_capture
        self._device.blas.use(stream.ptr, self._workspace.ptr)

    def allocate(self, size: int) -> Any:
        return cupy.cuda.alloc(size)

    def array(self, memory: Any, offset: int, shape: tuple[int, ...], dtype: DType) -> Any:
        return cupy.ndarray(shape, dtype, memory + offset)

    def base(self, memory: Any) -> int:
        return int(memory.ptr)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(stride // array.itemsize for stride in array.strides)

    def references(self, memory: Any) -> int | None:
        return sys.getrefcount(memory.mem) if _COUNTS_REFERENCES else None

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int = 0) -> None:
        self._device.blas.gemm(a, b, c, beta, tf32=self.precision == "tf32")

    def kernels(self, texts: tuple[str, ...], options: tuple[str, ...]) -> Launch:
        launch = self._launchers.get((texts, options))
        if launch is None:
            number, kernels = cupy.cuda.Device().id, {}
            for text in texts:
                kernels.update(_module(number, text, options))

            def launch(
                name: str, blocks: Sequence[int], threads: Sequence[int], arguments: Sequence[int], shared: int = 0
            ) -> None:
                kernel = kernels[name]
                if shared > _DEFAULT_SHARED and kernel.max_dynamic_shared_size_bytes < shared:
                    kernel.max_dynamic_shared_size_bytes = shared
                kernel(tuple(blocks), tuple(threads), tuple(arguments), shared_mem=shared)

            self._launchers[texts, options] = launch
        return launch

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """See `DeviceStream`. A failure warns and disables capture on this device."""
        device, outer = self._device, self._stream
        stream = cupy.cuda.Stream(non_blocking=True)
        try:
            with stream:
                device.blas.use(stream.ptr, self._workspace.ptr)
                stream.begin_capture()
                try:
                    work()
                finally:
                    graph = stream.end_capture()
        except (RuntimeError, NotImplementedError) as error:
            device.can_capture = self.can_capture = False
            warnings.warn(f"CUDA graphs are off: {error}", RuntimeWarning, stacklevel=2)
            return None
        finally:
            device.blas.use(outer.ptr, self._workspace.ptr)
        replay: Callable[[], None] = graph.launch  # on the stream that is current then
        return replay

    def graph_memory(self) -> int:
        """Return a sixteenth of the device's memory, minus what its other streams use."""
        others = (one.graphs for one in self._device.streams.values() if one is not self)
        return self._device.graph_memory - sum(captured.size for graphs in others for captured in graphs)


ENGINE: Engine = GpuEngine(stream_of)
