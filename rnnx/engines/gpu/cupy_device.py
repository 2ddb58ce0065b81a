"""CuPy's answer to `device`: its memory pool, its kernels, its graphs, and cuBLAS on a handle of our own.

Work goes to the stream that is current in CuPy when a function is called, on the device of its arrays.
"""

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
import numpy as np
from cupy._core import _routines_linalg as _linalg  # what CUPY_TF32 sets can be read here only

from rnnx.engines.gpu import codegen, precision
from rnnx.engines.gpu.cublas import WORKSPACE, Blas
from rnnx.engines.gpu.device import Matrix, Queue
from rnnx.engines.gpu.engine import Engine
from rnnx.engines.legacy import Legacy

_MOST_QUEUES = 16  # of streams that come and go
_SHARED = 48 << 10  # bytes that a block has without asking
_PER_THREAD = 2  # what CUDA calls the default stream of each thread

# Whether objects can be asked who refers to them.
_COUNTS = hasattr(sys, "getrefcount") and getattr(sys, "_is_gil_enabled", lambda: True)()


class _Device:
    """What the queues of a device share. Its lock is held while a pass is being asked for."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.blas = Blas()
        self.queues: OrderedDict[Any, CupyQueue] = OrderedDict()
        self.graphs = os.environ.get("RNNX_CUDA_GRAPHS", "1") != "0"
        capable = int(cupy.cuda.Device().compute_capability) >= 90
        self.room = cupy.cuda.runtime.memGetInfo()[1] // 16
        wanted = capable and os.environ.get("RNNX_CUDA_CLUSTERS", "0") == "1"
        self.clusters = int(cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]) if wanted else 0


_devices: dict[int, _Device] = {}
_devices_lock = threading.Lock()


@contextlib.contextmanager
def queue_of(array: Any) -> Iterator["CupyQueue"]:
    """The queue of the current stream on the device of an array, to oneself."""
    number = array.device.id
    with cupy.cuda.Device(number):
        with _devices_lock:
            device = _devices.get(number)
            if device is None:
                device = _devices[number] = _Device()
        stream = cupy.cuda.get_current_stream()
        key = (stream.ptr, threading.get_ident()) if stream.ptr == _PER_THREAD else stream.ptr
        with device.lock:
            queue = device.queues.get(key)
            if queue is None:
                queue = device.queues[key] = CupyQueue(device)
                if len(device.queues) > _MOST_QUEUES:
                    device.queues.popitem(last=False)
            device.queues.move_to_end(key)
            queue.enter(stream)
            yield queue


@lru_cache(maxsize=256)
def _module(device: int, text: str, options: tuple[str, ...]) -> dict[str, Any]:
    """The kernels of a source on a device, by name. They are loaded here: in a capture it would be too late."""
    del device
    module = cupy.RawModule(code=text, options=options)
    return {name: module.get_function(name) for name in codegen.kernel_names(text)}


class CupyQueue(Queue):
    """A stream of a device."""

    def __init__(self, device: _Device) -> None:
        super().__init__()
        self._device = device
        self._workspace = cupy.cuda.alloc(WORKSPACE)
        self._launchers: dict[Any, Callable[..., None]] = {}
        self._tf32 = False
        self._stream: Any = None

    def enter(self, stream: Any) -> None:
        """Begin to work, on the stream that is current."""
        if stream.is_capturing():  # what a call needs while it runs would be given to others, and written to by replays
            raise RuntimeError("rnnx cannot be captured in a CUDA graph of one's own: it records its loops itself")
        self._stream = stream
        self._tf32 = self.precision == "tf32"
        self._device.blas.use(stream.ptr, self._workspace.ptr)

    def allocate(self, size: int) -> Any:
        """See `Queue`."""
        return cupy.cuda.alloc(size)

    def array(self, memory: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """See `Queue`."""
        return cupy.ndarray(shape, dtype, memory + offset)

    def base(self, memory: Any) -> int:
        """See `Queue`."""
        return int(memory.ptr)

    def address(self, array: Any) -> int:
        """See `Queue`."""
        return int(array.data.ptr)

    def strides(self, array: Any) -> tuple[int, ...]:
        """See `Queue`."""
        return tuple(stride // array.itemsize for stride in array.strides)

    def references(self, memory: Any) -> int | None:
        """See `Queue`."""
        return sys.getrefcount(memory.mem) if _COUNTS else None

    def gemm(self, a: Matrix, b: Matrix, c: Matrix, beta: int = 0) -> None:
        """See `Queue`."""
        self._device.blas.gemm(a, b, c, beta, tf32=self._tf32)

    def kernels(self, texts: tuple[str, ...], options: tuple[str, ...]) -> Callable[..., None]:
        """See `Queue`."""
        launch = self._launchers.get((texts, options))
        if launch is None:
            number, kernels = cupy.cuda.Device().id, {}
            for text in texts:
                kernels.update(_module(number, text, options))

            def launch(
                name: str,
                blocks: Sequence[int],
                threads: Sequence[int],
                arguments: Sequence[int],
                shared: int = 0,
            ) -> None:
                kernel = kernels[name]
                if shared > _SHARED and kernel.max_dynamic_shared_size_bytes < shared:
                    kernel.max_dynamic_shared_size_bytes = shared
                kernel(tuple(blocks), tuple(threads), tuple(arguments), shared_mem=shared)

            self._launchers[texts, options] = launch
        return launch

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """See `Queue`. What cannot be captured is said once, and graphs are not tried again on this device."""
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
            device.graphs = False
            warnings.warn(f"CUDA graphs are off: {error}", RuntimeWarning, stacklevel=2)
            return None
        finally:
            device.blas.use(outer.ptr, self._workspace.ptr)
        return graph.launch  # on the stream that is current then

    @property
    def precision(self) -> str:
        """See `Queue`: what `rnnx.use_precision` says, else what CuPy's own switch says."""
        chosen = precision.chosen.get()
        if chosen is not None:
            return chosen
        return "tf32" if _linalg.get_compute_type("float32") == _linalg.COMPUTE_TYPE_TF32 else "ieee"

    @property
    def clusters(self) -> int:
        """See `Queue`."""
        return self._device.clusters

    @property
    def records(self) -> bool:
        """See `Queue`."""
        return self._device.graphs

    @property
    def room(self) -> int:
        """See `Queue`: a sixteenth of the device's memory, for all its queues."""
        others = (queue.plans for queue in self._device.queues.values() if queue is not self)
        return self._device.room - sum(plan.size for plans in others if plans is not None for plan in plans)


_engine = Engine(queue_of)
ENGINE = Legacy(_engine.forward, _engine.backward, _engine.matmul, _engine.stepper)
