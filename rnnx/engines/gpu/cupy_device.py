# ruff: noqa: D102 - methods are documented in `DeviceStream`
"""CuPy devices. Work is queued on CuPy's current stream, on the device of the arrays."""

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import cupy
from cupy._core import _routines_linalg as _linalg  # the only way to read the CUPY_TF32 setting

from rnnx.engines import precision
from rnnx.engines.gpu import sending
from rnnx.engines.gpu.cublas import WORKSPACE, Blas
from rnnx.engines.gpu.device import ONE, DeviceStream, DType, Launch, Matrix, Processor, Stack
from rnnx.engines.gpu.engine import GpuEngine
from rnnx.engines.gpu.graphs import GraphCache, in_capture, part_of_capture
from rnnx.engines.gpu.kernel import cooperative, kernel_names
from rnnx.engines.gpu.sending import Sender
from rnnx.engines.protocol import Engine

_MAX_STREAMS = 16  # per device, for programs that keep creating streams
_DEFAULT_SHARED = 48 << 10  # bytes of dynamic shared memory that a kernel may use without opting in
_ANY_CLUSTER_SIZE = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
_PER_THREAD = 2  # handle of CUDA's per-thread default stream
_COUNTS_REFERENCES = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()


class _Device:
    """What the streams of a device share. The lock is held while a pass is queued."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blas = Blas()
        self.streams: dict[Hashable, CupyStream] = {}  # the latest last
        self.can_capture = os.environ.get("RNNX_CUDA_GRAPHS", "1") != "0"
        self.graph_memory = int(cupy.cuda.runtime.memGetInfo()[1]) // 16
        self.processor = _processor()
        modules = _module(cupy.cuda.Device().id, sending.source(), ("-std=c++17",))
        handles = {name: kernel.kernel.ptr for name, kernel in modules.items()}
        self.sender = Sender(cupy.cuda.driver.launchKernel, handles.__getitem__)


def _processor() -> Processor:
    """Return what persistent kernels depend on, of the current device."""
    given, choices = os.environ.get("RNNX_CUDA_PERSISTENT", ""), {"": None, "0": False, "1": True}
    if given not in choices:
        raise ValueError(f"the environment variable RNNX_CUDA_PERSISTENT must be 0 or 1; got {given!r}")
    gpu = cupy.cuda.Device()
    names = "MultiProcessorCount", "MaxSharedMemoryPerBlockOptin", "CooperativeLaunch"
    multiprocessors, shared, grids = (int(gpu.attributes[name]) for name in names)
    return Processor(int(gpu.compute_capability), multiprocessors, shared, choices[given], bool(grids))


_devices: dict[int, _Device] = {}
_devices_lock = threading.Lock()


def stream_of(array: Any) -> contextlib.AbstractContextManager["CupyStream"]:
    """Lock the device of an array and give access to its current stream."""
    number = array.device.id
    return _current_stream(number) if number == cupy.cuda.get_device_id() else _stream_on(number)


@contextlib.contextmanager
def _stream_on(number: int) -> Iterator["CupyStream"]:
    """Like `stream_of`, for another device than the current one."""
    with cupy.cuda.Device(number), _current_stream(number) as stream:
        yield stream


@contextlib.contextmanager
def _current_stream(number: int) -> Iterator["CupyStream"]:
    device = _devices.get(number)
    if device is None:
        with _devices_lock:
            device = _devices[number] = _devices.get(number) or _Device()
    stream = cupy.cuda.get_current_stream()
    key = (stream.ptr, threading.current_thread() if stream.ptr == _PER_THREAD else None)
    with device.lock:
        own = device.streams.pop(key, None) or CupyStream(device)
        device.streams[key] = own
        if len(device.streams) > _MAX_STREAMS:
            del device.streams[next(iter(device.streams))]
        own.enter(stream)
        yield own


@lru_cache(maxsize=256)
def _module(device: int, text: str, options: tuple[str, ...]) -> dict[str, Any]:
    """Compile a source and load its kernels, by name, because kernels cannot be loaded during capture."""
    del device
    module = cupy.RawModule(code=text, options=options, enable_cooperative_groups=cooperative(text))
    kernels = {name: module.get_function(name) for name in kernel_names(text)}
    if "__cluster_dims__(16," in text:  # more blocks than every device with clusters allows
        for kernel in kernels.values():
            cupy.cuda.driver.funcSetAttribute(kernel.kernel.ptr, _ANY_CLUSTER_SIZE, 1)
    return kernels


@lru_cache(maxsize=256)
def _launch(device: int, texts: tuple[str, ...], options: tuple[str, ...]) -> Launch:
    kernels = {name: kernel for text in texts for name, kernel in _module(device, text, options).items()}
    together = {name for text in texts if cooperative(text) for name in kernel_names(text)}

    def launch(
        name: str, blocks: Sequence[int], threads: Sequence[int], arguments: Sequence[int], shared: int = 0
    ) -> None:
        kernel = kernels[name]
        if shared > _DEFAULT_SHARED and kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        if name in together:
            _check_room(kernel.kernel.ptr, blocks[0], threads[0], shared)
        kernel(tuple(blocks), tuple(threads), tuple(arguments), shared_mem=shared)

    return launch


def _check_room(kernel: int, blocks: int, threads: int, shared: int) -> None:
    """Raise an error if blocks cannot all run at the same time; CuPy would launch fewer, which would wait forever."""
    each = int(cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel, threads, shared))
    room = each * int(cupy.cuda.Device().attributes["MultiProcessorCount"])
    if blocks > room:
        raise RuntimeError(
            f"the GPU has room for {room} of the {blocks} blocks of a persistent kernel; set RNNX_CUDA_PERSISTENT=0"
        )


def _precision() -> str:
    """Return the precision set by `rnnx.use_precision`, by default CuPy's setting."""
    chosen = precision.chosen.get()
    if chosen is None:
        chosen = "tf32" if _linalg.get_compute_type("float32") == _linalg.COMPUTE_TYPE_TF32 else "ieee"
    return "tf32" if chosen == "tf32" else "ieee"


class CupyStream(DeviceStream):
    """A CuPy stream."""

    def __init__(self, device: _Device) -> None:
        self._device, self.graphs = device, GraphCache(self)
        self.processor = device.processor
        self._workspace = cupy.cuda.alloc(WORKSPACE)
        self._stream: Any = None  # CuPy's; this reference keeps its handle from being reused
        self._queue = 0  # the handle of the stream on which work is queued: this one, or one that captures it

    def enter(self, stream: Any) -> None:
        """Prepare for calls on `stream`, CuPy's current stream."""
        if stream.is_capturing() and not in_capture.get():  # replays would write to memory that may have been freed
            raise RuntimeError("rnnx functions cannot be called during stream capture; rnnx captures its own passes")
        self._stream, self._queue, self.precision = stream, stream.ptr, _precision()
        self.can_capture = self._device.can_capture and not in_capture.get()

    def allocate(self, size: int) -> Any:
        return cupy.cuda.alloc(size)

    def array(
        self, memory: Any, offset: int, shape: tuple[int, ...], dtype: DType, strides: tuple[int, ...] | None = None
    ) -> Any:
        return cupy.ndarray(shape, dtype, memory + offset, strides)

    def base(self, memory: Any) -> int:
        return int(memory.ptr)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def strides(self, array: Any) -> tuple[int, ...]:
        return tuple(stride // array.itemsize for stride in array.strides)

    def place(self, array: Any) -> tuple[int, ...]:
        return (array.data.ptr, *array.strides)

    def send(self, numbers: Sequence[int], address: int) -> None:
        self._device.sender.send(numbers, address, self._queue)

    def reference(self, memory: Any) -> Any:
        return memory + 0

    def references(self, memory: Any) -> int | None:
        return sys.getrefcount(memory.mem) if _COUNTS_REFERENCES else None

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int = 0, stack: Stack = ONE) -> None:
        self._device.blas.use(self._queue, self._workspace.ptr)
        self._device.blas.gemm(a, b, c, beta, tf32=self.precision == "tf32", stack=stack)

    def kernels(self, texts: tuple[str, ...], options: tuple[str, ...]) -> Launch:
        return _launch(cupy.cuda.Device().id, texts, options)

    def capture(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """See `DeviceStream`. A failure warns and disables capture on this device."""
        device, outer = self._device, self._stream
        stream = cupy.cuda.Stream(non_blocking=True)
        try:
            with stream:
                self._queue = stream.ptr
                stream.begin_capture()
                try:
                    work()
                finally:
                    graph = stream.end_capture()
        except (RuntimeError, NotImplementedError) as error:
            device.can_capture = self.can_capture = False
            warnings.warn(f"CUDA graphs disabled because stream capture failed: {error}", RuntimeWarning, stacklevel=2)
            return None
        finally:
            self._queue = outer.ptr
        replay: Callable[[], None] = graph.launch  # on the stream that is current then
        return replay

    def graph_memory(self) -> int:
        """Return a sixteenth of the device's memory, minus what its other streams use."""
        others = (one for one in self._device.streams.values() if one is not self)
        return self._device.graph_memory - sum(captured.size for other in others for captured in other.graphs)


class CupySteps:
    """See `rnnx.engines.protocol.StepCapture`."""

    def write(self, array: Any, values: Any) -> None:
        array.set(values, stream=cupy.cuda.get_current_stream())

    def capture(self, like: Any, work: Callable[[], None]) -> Callable[[], None]:
        with cupy.cuda.Device(like.device.id):
            outer, stream = cupy.cuda.get_current_stream(), cupy.cuda.Stream(non_blocking=True)
            pool = cupy.cuda.MemoryPool()
            with cupy.cuda.using_allocator(pool.malloc), stream, part_of_capture():
                stream.wait_event(outer.record())
                work()  # it loads the kernels, and fills the pool
                outer.wait_event(stream.record())
                stream.begin_capture()
                try:
                    work()
                finally:
                    graph = stream.end_capture()

        def replay(_memory: Any = (pool, stream)) -> None:
            graph.launch()  # on the current stream

        return replay


def _steps() -> CupySteps | None:
    """Return what captures whole steps, unless the environment turns it off."""
    return None if "0" in map(os.environ.get, ("RNNX_CUDA_GRAPHS", "RNNX_CUDA_STEP_GRAPHS")) else CupySteps()


ENGINE: Engine = GpuEngine(stream_of, _steps())
