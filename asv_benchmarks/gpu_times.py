"""The times of `gpu.py`: passes of rnnx and of torch (cuDNN). One function per child process.

Every side gets its preferred layout: rnnx Fortran-ordered (n_x, m, T), as its own functions return it ("rnnx"), or
C-ordered, as users make it ("C order"); torch (T, m, n_x). A *forward* keeps what a backward pass needs; a *step* is
forward and backward, with the gradients of the inputs, the initial states and all parameters.
"""

import contextlib
import gc
import itertools
import statistics
import time
import traceback

import numpy as np

SIZES = [(128, 256, 64, 100), (512, 1024, 64, 50), (1024, 1024, 128, 256), (27, 128, 32, 50), (64, 512, 1, 200)]
QUICK = [SIZES[0], SIZES[4]]
# Sides timed only at some sizes and precisions: the loop of CuPy functions, and persistent and step kernels everywhere
# that persistent kernels may fit.
SMALL = [SIZES[0], SIZES[3], SIZES[4]]
SOME = {"reference": (SIZES[:2], ("float32",)), "steps": (SMALL, None), "persistent": ([*SMALL, SIZES[1]], None)}
PRECISIONS = {
    "lstm": ("float32", "tf32", "float16", "bfloat16"),
    "gru_reset_after": ("float32", "tf32", "float16"),
}
LEAST, MOST, SECONDS = 20, 60, 0.2  # of timed calls


class CupyClock:
    def __init__(self):
        import cupy

        self.event, self._elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time
        self.synchronize = cupy.cuda.runtime.deviceSynchronize

    def milliseconds(self, first, second):
        return self._elapsed(first, second)


class TorchClock:
    def __init__(self):
        import torch

        self.event = lambda: torch.cuda.Event(enable_timing=True)
        self.synchronize = torch.cuda.synchronize

    def milliseconds(self, first, second):
        return first.elapsed_time(second)


def measure(clock, f):
    """Return the median milliseconds per call of back-to-back calls, their middle 80 % spread, and the host's median
    microseconds for a single call.
    """
    for _ in range(5):  # eager, captured, replayed
        f()
    clock.synchronize()
    host = []
    for _ in range(9):
        start = time.perf_counter()
        f()
        host.append(time.perf_counter() - start)
        clock.synchronize()
    start = time.perf_counter()
    f()
    clock.synchronize()
    calls = max(LEAST, min(MOST, int(SECONDS / (time.perf_counter() - start))))
    events = [clock.event() for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        f()
        event.record()
    clock.synchronize()
    times = [clock.milliseconds(*pair) for pair in itertools.pairwise(events)]
    low, _, _, _, _, _, _, _, high = statistics.quantiles(times, n=10)
    median = statistics.median(times)
    return {"ms": median, "spread": (high - low) / median, "host_us": 1e6 * statistics.median(host)}


def normal(rng, shape, scale=1.0):
    """Return normal float32 numbers. Large arrays repeat a small block, which is faster than drawing them."""
    size = int(np.prod(shape))
    block = rng.standard_normal(min(size, 1 << 20), dtype=np.float32) * np.float32(scale)
    return np.resize(block, size).reshape(shape)


class Rnnx:
    """The public functions on CuPy arrays."""

    def __init__(self, cell, precision, size, order="F"):
        import gpu_device

        import rnnx

        self.device = gpu_device.Gpu(watched=False)
        n_x, n_a, m, n_steps = size
        rng, dtype = np.random.default_rng(0), gpu_device.dtype_of(precision)

        def up(shape, scale=1.0):
            return self.device.upload(normal(rng, shape, scale).astype(dtype), order)

        shapes = {key: p.shape for key, p in rnnx.initialize_parameters(cell, n_x, n_a, seed=0).items()}
        shapes |= dict.fromkeys(rnnx.CELLS[cell].optional_keys, (n_a, 1))
        self.parameters = {key: up(shape, n_a**-0.5) for key, shape in shapes.items()}
        self.x, self.da = up((n_x, m, n_steps)), up((n_a, m, n_steps))
        self.s0 = [up((n_a, m)) for _ in rnnx.CELLS[cell].states]
        self.lstm, self.rnnx = cell == "lstm", rnnx

    def forward(self):
        if self.lstm:
            return self.rnnx.lstm_forward(self.x, self.s0[0], self.parameters, c0=self.s0[1])[-1]
        return self.rnnx.gru_forward(self.x, self.s0[0], self.parameters, reset_after=True)[-1]

    def step(self):
        caches = self.forward()
        if self.lstm:
            return self.rnnx.lstm_backward(self.da, caches, consume=True)
        return self.rnnx.gru_backward(self.da, caches, consume=True, reset_after=True)


class Torch:
    """torch.nn.LSTM or GRU, which run cuDNN."""

    def __init__(self, cell, precision, size):
        import torch

        exact = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cudnn.rnn.fp32_precision = exact
        torch.backends.cuda.matmul.fp32_precision = exact
        n_x, n_a, m, n_steps = size
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        options = {"device": "cuda", "dtype": dtype}
        self.layer = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(n_x, n_a, **options)
        self.layer.flatten_parameters()  # torch ignores this for bfloat16, which is not in its CUDNN_TENSOR_DTYPES
        x, self.da = torch.randn(n_steps, m, n_x, **options), torch.randn(n_steps, m, n_a, **options)
        states = [torch.randn(1, m, n_a, **options).requires_grad_() for _ in range(2 if cell == "lstm" else 1)]
        self.x, self.state = x.requires_grad_(), tuple(states) if cell == "lstm" else states[0]
        self.inputs, self.torch = [self.x, *states, *self.layer.parameters()], torch

    def forward(self):
        return self.layer(self.x, self.state)[0]

    def step(self):
        return self.torch.autograd.grad(self.forward(), self.inputs, self.da)

    def captured(self, job):
        """Return the replay of a job in a CUDA graph, whose results always have the same memory."""
        cuda, work = self.torch.cuda, getattr(self, job)
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(3):
                work()
        cuda.current_stream().wait_stream(stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            self.results = work()
        return graph.replay


def times(options, side):
    """Return all rows of a side: "rnnx", "C order", "eager" (without CUDA graphs), "steps", "persistent", "reference",
    "torch", with those of "torch graph", in which a pass is a CUDA graph.
    """
    clock = TorchClock() if side == "torch" else CupyClock()
    if side == "torch":
        yield versions_of_torch()
    sizes = QUICK if options["quick"] else SIZES
    for cell, precisions in PRECISIONS.items():
        some_sizes, some = SOME.get(side, (sizes, precisions))
        for precision in [precision for precision in precisions if precision in (some or precisions)]:
            for size in [size for size in sizes if size in some_sizes]:
                row = {"kind": "time", "side": side, "cell": cell, "precision": precision, "size": size}
                yield from _times(clock, side, row)


def _times(clock, side, row):
    """Return the rows of a forward pass and of a step. A failure becomes a row."""
    arguments = row["cell"], row["precision"], row["size"]
    try:
        with _engine(side, row["precision"]):
            given = Torch(*arguments) if side == "torch" else Rnnx(*arguments, "C" if side == "C order" else "F")
            for job in ("forward", "step"):
                yield {**row, "job": job, **measure(clock, getattr(given, job))}
            for job in ("forward", "step") if side == "torch" else ():
                yield {**row, "side": "torch graph", "job": job, **measure(clock, given.captured(job))}
    except Exception as error:
        traceback.print_exc()
        name = f"time of {side}: {' '.join(map(str, arguments))}"
        yield {"kind": "check", "name": name, "status": "FAILED", "detail": f"{type(error).__name__}: {error}"[:200]}
        clock.synchronize()  # raises if the CUDA context is broken
    given = None
    gc.collect()


@contextlib.contextmanager
def _engine(side, precision):
    if side == "torch":
        yield
        return
    import gpu_device

    import rnnx

    with rnnx.use_engine("reference" if side == "reference" else "gpu"), gpu_device.products(precision):
        yield


def versions_of_torch():
    import torch

    return {"kind": "torch", "text": f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"}


CHILDREN = {"times": times}
