"""The checks of `gpu.py`: against float64, recordings, streams, threads, memory. One function a child."""

import gc
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gpu_device import Emulation, Gpu, call, forward, make, reference, results, same_bits, upload, worst_error

import rnnx

# Relative errors in norm of the whole array, against float64 on the same inputs.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 3e-3, "float16": 1e-2, "bfloat16": 5e-2}
ODD, MIDDLE, LARGE = (5, 7, 3, 6), (48, 64, 27, 9), (128, 256, 64, 20)  # (n_x, n_a, m, T)
_WAIT = """
extern "C" __global__ void wait(long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {}
}
"""


def device_of(options, **keywords):
    return Emulation() if options["emulate"] else Gpu(**keywords)


def outcome(name, failures, detail=""):
    """One row of the table."""
    said = "; ".join(failures[:3]) + (f"; and {len(failures) - 3} more" if len(failures) > 3 else "")
    return {"kind": "check", "name": name, "status": "FAILED" if failures else "ok", "detail": said or detail}


# --- every setup --------------------------------------------------------------------------------------------------


def setups(options, cell, precision):
    """All sizes, kinds of inputs, with and without lengths: eager, recorded, replayed twice."""
    device, failures, worst, done = device_of(options), [], (0.0, ""), 0
    small = options["quick"] and options["emulate"]
    sizes = [ODD] if small else [ODD, MIDDLE] if options["emulate"] else [ODD, MIDDLE, LARGE]
    rng = np.random.default_rng(options["seed"])
    for size in sizes:
        for indexed in (False, True):
            for ended in (False, True):
                kind = f"{size}{' indices' if indexed else ''}{' lengths' if ended else ''}"
                try:
                    wrong, error, array = _setup(device, rnnx.CELLS[cell], rng, size, precision, indexed, ended)
                    failures += [f"{kind}: {one}" for one in wrong]
                    worst = max(worst, (error, f"{array} {kind}"))
                except Exception as error:
                    traceback.print_exc()
                    failures.append(f"{kind}: {type(error).__name__}: {error}"[:200])
                    device.synchronize()  # raises if nothing more can be run
                done += 1
    if device.counts["allocations in a recording"]:
        failures.append(f"{device.counts['allocations in a recording']} allocations in recordings")
    yield outcome(f"{cell} {precision}", failures, f"{done} setups x 4 calls, worst {worst[0]:.1e} ({worst[1]})")


def _setup(device, cell, rng, size, precision, indexed, ended):
    """What is wrong with one setup, the largest error, and of which array. Two problems take turns."""
    problems = [make(cell, rng, size, precision, indexed=indexed, ended=ended) for _ in range(2)]
    eager = [call(device, problem, precision, order) for problem, order in zip(problems, "CF", strict=True)]
    before = device.counts["replayed"]
    replayed = [call(device, problem, precision, order) for problem, order in zip(problems, "FC", strict=True)]
    wrong = []
    if device.counts["replayed"] - before != 4:
        wrong.append(f"{device.counts['replayed'] - before} loops replayed, not 4")
    wrong += [f"call {i + 3} is not call {i + 1} bit for bit" for i in range(2) if not same_bits(eager[i], replayed[i])]
    dtype = problems[0].parameters[cell.parameter_keys[0]].dtype
    wrong += [f"{name} is {a.dtype}" for name, a in eager[0].items() if a.dtype != dtype]
    checked = problems if size != LARGE else problems[:1]
    errors = [worst_error(found, reference(problem)) for found, problem in zip(eager, checked, strict=False)]
    error, array = max(errors)
    if error > TOLERANCE[precision]:
        wrong.append(f"error {error:.1e} of {array} > {TOLERANCE[precision]:.0e}")
    return wrong, error, array


# --- together -----------------------------------------------------------------------------------------------------


def several(rng, size, names):
    return [make(rnnx.CELLS[name], rng, size) for name in names]


def forwards_before_backward(options):
    """Three forward passes of one setup, and only then their backward passes."""
    device, failures = device_of(options), []
    problems = several(np.random.default_rng(options["seed"]), ODD if options["emulate"] else MIDDLE, ["lstm"] * 3)
    expected = [call(device, problem) for problem in problems]
    for turn in range(4):
        given = [upload(device, problem) for problem in problems]
        with device.use():
            passes = [forward(one) for one in given]
            found = [results(one, *states) for one, states in zip(given, passes, strict=True)]
        del passes
        for i, (one, want) in enumerate(zip(found, expected, strict=True)):
            if not same_bits({name: device.to_host(a) for name, a in one.items()}, want):
                failures.append(f"turn {turn}, problem {i}: other bits than alone")
    yield outcome("three forwards before a backward", failures, "4 turns, same bits as alone")


def threads(options):
    """Problems of two cells from four threads at once: on one stream, then each on a stream of its own."""
    device = device_of(options)
    rng, names = np.random.default_rng(options["seed"]), ["lstm", "gru"] * (2 if options["quick"] else 4)
    problems = several(rng, ODD if options["emulate"] else MIDDLE, names)
    expected = [call(device, problem) for problem in problems]

    def alone(problem):
        with device.stream():
            return call(device, problem)

    kinds = {"on one stream": lambda problem: call(device, problem), "on their own streams": alone}
    for kind, work in kinds.items():
        failures = []
        with ThreadPoolExecutor(4) as pool:
            for turn in range(2 if options["quick"] else 6):
                for i, found in enumerate(pool.map(work, problems)):
                    if not same_bits(found, expected[i]):
                        failures.append(f"turn {turn}, problem {i} ({names[i]}): other bits than alone")
        yield outcome(f"four threads {kind}", failures, f"{len(problems)} problems, same bits as alone")


def streams(options):
    """Inputs that a slow kernel makes on a stream that waits for no other; then two such streams at once."""
    device = Gpu()
    problems = several(np.random.default_rng(options["seed"]), MIDDLE, ["lstm", "gru"])
    expected = [call(device, problem) for problem in problems]
    given = [upload(device, problem) for problem in problems]
    inputs = [one.x.copy() for one in given]
    wait, failures = device.xp.RawKernel(_WAIT, "wait"), []
    queues = [device.stream() for _ in problems]

    def start(i):
        with queues[i], device.use():
            given[i].x.fill(np.nan)
            wait((1,), (1,), (np.int64(40_000_000),))  # some 20 ms
            given[i].x[...] = inputs[i]
            return results(given[i], *forward(given[i]))

    def wrong(i, found):
        with queues[i]:
            return not same_bits({name: device.to_host(a) for name, a in found.items()}, expected[i])

    device.synchronize()
    for turn in range(5):
        for i in range(2):
            failures += [f"turn {turn}: stream {i} alone"] if wrong(i, start(i)) else []
    yield outcome("inputs late on a non-blocking stream", failures, "2 streams x 5 calls, same bits")
    failures = []
    for turn in range(10):
        both = [start(i) for i in range(2)]
        failures += [f"turn {turn}: stream {i}" for i, found in enumerate(both) if wrong(i, found)]
    yield outcome("two streams at the same time", failures, "10 calls on each, same bits")
    yield _there_and_back(device, wait, queues, given[0], expected[0])


def _there_and_back(device, wait, queues, given, expected):
    """Forward on one stream, backward on another, which is late and waits for the first as it should."""
    failures = []
    for turn in range(4):
        with queues[0], device.use():
            states, caches = forward(given)
            there = queues[0].record()
        with queues[1], device.use():
            queues[1].wait_event(there)
            wait((1,), (1,), (np.int64(40_000_000),))
            found = results(given, states, caches)
            device.synchronize()
            if not same_bits({name: device.to_host(a) for name, a in found.items()}, expected):
                failures.append(f"turn {turn}")
        del states, caches, found
    return outcome("forward on one stream, backward on another", failures, "4 turns, same bits")


# --- memory, waiting ----------------------------------------------------------------------------------------------


def memory(options):
    """Nothing grows over a thousand steps."""
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
    """A pass does not wait for the device: neither does CuPy see it wait, nor does it while the device is busy."""
    device = Gpu(watched=False)
    wait = device.xp.RawKernel(_WAIT, "wait")
    for indexed, ended in ((False, False), (True, False), (False, True)):
        one = make(rnnx.CELLS["lstm"], np.random.default_rng(options["seed"]), MIDDLE, indexed=indexed, ended=ended)
        given = upload(device, one)
        with device.use():
            for _ in range(4):
                results(given, *forward(given))
            seen, host, busy = _waits(device, wait, lambda given=given: results(given, *forward(given)))
        failures = [seen] if seen else []
        if host > busy / 2:
            failures.append(f"the host needed {1e3 * host:.0f} ms while the device was busy for {1e3 * busy:.0f}")
        inputs = "indices" if indexed else "products"
        row = outcome(f"no waiting, {inputs}{', lengths' if ended else ''}", failures, f"host {1e3 * host:.2f} ms")
        if ended and failures:  # lengths are checked on the host, which has to fetch them
            row["status"] = "note"
        yield row


def _waits(device, wait, step):
    """What CuPy says about waiting; seconds of the host for a step, and of the device with work before it."""
    import warnings

    import cupyx

    seen = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may go away some day
        try:
            with cupyx.allow_synchronize(False):
                step()
        except cupyx.DeviceSynchronized as error:
            seen = f"CuPy waits: {error or 'DeviceSynchronized'}"
    device.synchronize()
    start = time.perf_counter()
    wait((1,), (1,), (np.int64(500_000_000),))  # a quarter of a second
    before = time.perf_counter()
    step()
    host = time.perf_counter() - before
    device.synchronize()
    return seen, host, time.perf_counter() - start


def tiny(options):
    """Every kernel once or twice, for a program that looks over its shoulder; memory is not pooled."""
    device, rng = Gpu(watched=False), np.random.default_rng(options["seed"])
    device.xp.cuda.set_allocator(None)
    for name, indexed, ended in (("lstm", False, False), ("gru", True, True), ("rnn", False, True)):
        problem = make(rnnx.CELLS[name], rng, (3, 33, 2, 3), indexed=indexed, ended=ended)
        for _ in range(3):
            call(device, problem)
    yield outcome("tiny", [], "ran")


CHILDREN = {f.__name__: f for f in (setups, forwards_before_backward, threads, streams, memory, waiting, tiny)}
