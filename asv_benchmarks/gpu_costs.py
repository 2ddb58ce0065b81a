"""The costs behind the times of `gpu.py`: matrix products, calls, graph nodes. One function per child process."""

import statistics
import time

import gpu_device
import gpu_problems
import numpy as np
from gpu_times import PRECISIONS, SIZES, CupyClock, measure, normal

import rnnx
from rnnx.engines.gpu.device import Matrix


def rates(options):
    """Measure TFLOP/s of one large product in each precision, with the engine's cuBLAS call."""
    clock, n = CupyClock(), 4096 if options["quick"] else 8192
    device, rng = gpu_device.Gpu(watched=False), np.random.default_rng(0)
    from rnnx.engines.gpu import cupy_device

    for precision in PRECISIONS["lstm"]:
        dtype = gpu_device.dtype_of(precision)
        numbers = normal(rng, (n, n)).astype(dtype)
        arrays = [device.to_device(numbers) for _ in range(3)]
        a, b, c = (Matrix(int(array.data.ptr), n, n, n, dtype) for array in arrays)
        with gpu_device.products(precision), cupy_device.stream_of(arrays[0]) as stream:
            found = measure(clock, lambda stream=stream, a=a, b=b, c=c: stream.gemm(a, b, c))
        yield {"kind": "rate", "precision": precision, "tflops": 2e-9 * n**3 / found["ms"], "n": n}


def costs(options):
    """Measure the host time of every kind of call, and the device time of a CUDA graph node."""
    del options
    clock, device = CupyClock(), gpu_device.Gpu(watched=False)
    nothing = device.xp.RawKernel('extern "C" __global__ void nothing(long long a, long long b) {}', "nothing")

    def launch():
        nothing((1,), (128,), (0, 0))

    yield _cost("host, launch of a kernel", _host_us(clock, launch))
    yield from _costs_of_products(clock, device)
    stream = device.stream()
    with stream:
        stream.begin_capture()
        for _ in range(1000):
            launch()
        graph = stream.end_capture()
    graph.launch()
    yield _cost("device, empty node of a CUDA graph", measure(clock, graph.launch)["ms"])
    yield _cost("host, launch of that graph of 1,000 nodes", _host_us(clock, graph.launch, 20))
    for size in ((16, 32, 8, 500), *SIZES[:2]):
        problem = gpu_problems.make(rnnx.CELLS["lstm"], np.random.default_rng(0), size)
        given = gpu_problems.upload(device, problem, "F")
        with device.use():
            for _ in range(3):
                gpu_problems.forward(given)
            found = measure(clock, _last_captured_pass(given.x).forward.replay)
            yield from _costs_of_calls(clock, given, size)
        nodes = 2 * size[3]
        yield _cost(f"device, product or kernel in the graph of a forward pass {size}", 1e3 * found["ms"] / nodes)
        yield _cost(f"host, launch of that graph of {nodes} nodes", found["host_us"])


def _costs_of_calls(clock, given, size):
    """Measure what a whole pass costs the host."""
    _, caches = gpu_problems.forward(given)

    def backward():
        rnnx.recurrent_backward(given.cell, given.dstates, caches)

    for _ in range(3):
        backward()
    yield _cost(f"host, forward pass {size}", _host_us(clock, lambda: gpu_problems.forward(given), 20))
    yield _cost(f"host, backward pass {size}", _host_us(clock, backward, 20))


def _costs_of_products(clock, device):
    """Measure a small matrix product, by the engine's cuBLAS call and by CuPy."""
    from rnnx.engines.gpu import cupy_device

    arrays = [device.to_device(np.ones((64, 64), np.float32)) for _ in range(3)]
    a, b, c = (Matrix(int(array.data.ptr), 64, 64, 64, np.dtype("float32")) for array in arrays)
    with cupy_device.stream_of(arrays[0]) as stream:
        yield _cost("host, matrix product by the engine's cuBLAS call", _host_us(clock, lambda: stream.gemm(a, b, c)))
    product = _host_us(clock, lambda: device.xp.matmul(arrays[0], arrays[1], out=arrays[2]))
    yield _cost("host, matrix product by CuPy", product)


def _last_captured_pass(array):
    """Return the captured pass that the engine last used on the current stream."""
    from rnnx.engines.gpu import cupy_device

    with cupy_device.stream_of(array) as stream:
        return max(stream.graphs, key=lambda captured: captured.last_used)


def _cost(name, value):
    return {"kind": "cost", "name": name, "us": value}


def _host_us(clock, f, calls=200):
    """Return the median host time per call in microseconds, over batches small enough for the launch queue."""
    found = []
    for _ in range(7):
        clock.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            f()
        found.append(1e6 * (time.perf_counter() - start) / calls)
    clock.synchronize()
    return statistics.median(found)


CHILDREN = {f.__name__: f for f in (rates, costs)}
