"""More checks of `gpu.py`: memory, synchronization, compute-sanitizer. One function per child process."""

import gc
import time
import warnings

import numpy as np
from gpu_checks import MIDDLE
from gpu_device import WAIT, Gpu, outcome
from gpu_problems import call, forward, make, results, upload

import rnnx


def memory(options):
    """Check that memory does not grow over a thousand steps."""
    device, n = Gpu(watched=False), 200 if options["quick"] else 1000
    pool, given = device.xp.get_default_memory_pool(), []
    for indexed in (False, True):
        one = make(rnnx.CELLS["lstm"], np.random.default_rng(options["seed"]), MIDDLE, indexed=indexed, ended=indexed)
        given.append(upload(device, one))

    def measured(steps):
        with device.use():
            for i in range(steps):
                results(given[i % 2], *forward(given[i % 2]))
        device.synchronize()
        gc.collect()
        return pool.used_bytes(), pool.total_bytes(), device.xp.cuda.runtime.memGetInfo()[0]

    used, total, free = measured(40)
    used_after, total_after, free_after = measured(n)
    grown = (used_after - used, total_after - total, free - free_after)
    failures = [
        f"{what} grew by {by} bytes" for what, by in zip(("used", "pool", "device"), grown, strict=True) if by > 0
    ]
    yield outcome(f"memory over {n} steps", failures, f"{used / 2**20:.1f} MiB in use before and after")


def waiting(options):
    """Check that a pass does not synchronize, according to CuPy and to the host time while the device is busy."""
    device = Gpu(watched=False)
    wait = device.xp.RawKernel(WAIT, "wait")
    for indexed, ended in ((False, False), (True, False), (False, True)):
        one = make(rnnx.CELLS["lstm"], np.random.default_rng(options["seed"]), MIDDLE, indexed=indexed, ended=ended)
        given = upload(device, one)
        with device.use():
            for _ in range(4):
                results(given, *forward(given))
            seen, host, busy = _waits(device, wait, lambda given=given: results(given, *forward(given)))
        failures = [seen] if seen else []
        if host > busy / 2:
            failures.append(f"the host took {1e3 * host:.0f} ms while the device was busy for {1e3 * busy:.0f} ms")
        inputs = "indices" if indexed else "products"
        row = outcome(
            f"no synchronization, {inputs}{', lengths' if ended else ''}", failures, f"host {1e3 * host:.2f} ms"
        )
        if ended and failures:  # lengths are checked on the host, which must read them
            row["status"] = "note"
        yield row


def _waits(device, wait, step):
    """Return CuPy's synchronization warnings, and the host and device seconds of a step behind queued work."""
    import cupyx

    seen = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental
        try:
            with cupyx.allow_synchronize(False):
                step()
        except cupyx.DeviceSynchronized as error:
            seen = f"CuPy synchronizes: {error or 'DeviceSynchronized'}"
    device.synchronize()
    start = time.perf_counter()
    wait((1,), (1,), (np.int64(500_000_000),))  # a quarter of a second
    before = time.perf_counter()
    step()
    host = time.perf_counter() - before
    device.synchronize()
    return seen, host, time.perf_counter() - start


def tiny(options):
    """Run every kernel once or twice, for compute-sanitizer, without a memory pool."""
    device, rng = Gpu(watched=False), np.random.default_rng(options["seed"])
    device.xp.cuda.set_allocator(None)
    for name, indexed, ended in (("lstm", False, False), ("gru", True, True), ("rnn", False, True)):
        problem = make(rnnx.CELLS[name], rng, (3, 33, 2, 3), indexed=indexed, ended=ended)
        for _ in range(3):
            call(device, problem)
    yield outcome("tiny", [], "ran")


CHILDREN = {f.__name__: f for f in (memory, waiting, tiny)}
