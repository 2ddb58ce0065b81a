"""The checks of `gpu.py`: accuracy, CUDA graphs, streams, threads. One function per child process."""

import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gpu_device import WAIT, Emulation, Gpu, outcome
from gpu_problems import call, forward, make, reference, results, same_bits, upload, worst_error

import rnnx

# Relative errors, in the norm of the whole array, against float64 on the same inputs.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 3e-3, "float16": 1e-2, "bfloat16": 5e-2}
ODD, MIDDLE, LARGE = (5, 7, 3, 6), (48, 64, 27, 9), (128, 256, 64, 20)  # (n_x, n_a, m, T)


def device_of(options, **keywords):
    return Emulation() if options["emulate"] else Gpu(**keywords)


# For persistent kernels: units that no tile divides, clusters of every size, several clusters, grids.
CLUSTERS = [ODD, (9, 37, 17, 5), (33, 100, 9, 8), (20, 200, 25, 8), (64, 256, 70, 20), (16, 512, 8, 8)]
CLUSTERS += [(16, 520, 17, 6), (16, 1024, 8, 6)]


def persistent(options, cell, precision):
    """Check persistent kernels, which RNNX_CUDA_PERSISTENT selects wherever they fit."""
    sizes = CLUSTERS[:2] if options["emulate"] else CLUSTERS
    for one in cases(options, cell, precision, sizes):
        yield {**one, "name": f"persistent: {one['name']}"}


def cases(options, cell, precision, sizes=None):
    """Check all sizes, both kinds of inputs, with and without lengths: eager, captured, replayed twice."""
    device, failures, worst, done = device_of(options), [], (0.0, ""), 0
    small = options["quick"] and options["emulate"]
    sizes = sizes or ([ODD] if small else [ODD, MIDDLE] if options["emulate"] else [ODD, MIDDLE, LARGE])
    rng = np.random.default_rng(options["seed"])
    for size in sizes:
        for indexed in (False, True):
            for ended in (False, True):
                kind = f"{size}{' indices' if indexed else ''}{' lengths' if ended else ''}"
                try:
                    wrong, error, array = _case(device, rnnx.CELLS[cell], rng, size, precision, indexed, ended)
                    failures += [f"{kind}: {one}" for one in wrong]
                    worst = max(worst, (error, f"{array} {kind}"))
                except Exception as error:
                    traceback.print_exc()
                    failures.append(f"{kind}: {type(error).__name__}: {error}"[:200])
                    device.synchronize()  # raises if the CUDA context is broken
                done += 1
    if device.counts["allocations during capture"]:
        failures.append(f"{device.counts['allocations during capture']} allocations during capture")
    yield outcome(f"{cell} {precision}", failures, f"{done} cases x 4 calls, worst {worst[0]:.1e} ({worst[1]})")


def _case(device, cell, rng, size, precision, indexed, ended):
    """Return the failures of one case, its largest error and that error's array. Two problems alternate."""
    problems = [make(cell, rng, size, precision, indexed=indexed, ended=ended) for _ in range(2)]
    eager = [call(device, problem, precision, order) for problem, order in zip(problems, "CF", strict=True)]
    before = device.counts["replayed"]
    replayed = [call(device, problem, precision, order) for problem, order in zip(problems, "FC", strict=True)]
    wrong = []
    if device.counts["replayed"] - before != 4:
        wrong.append(f"{device.counts['replayed'] - before} loops replayed, expected 4")
    wrong += [f"call {i + 3} differs from call {i + 1}" for i in range(2) if not same_bits(eager[i], replayed[i])]
    dtype = problems[0].parameters[cell.parameter_keys[0]].dtype
    wrong += [f"{name} is {a.dtype}" for name, a in eager[0].items() if a.dtype != dtype]
    checked = problems if size != LARGE else problems[:1]
    errors = [worst_error(found, reference(problem)) for found, problem in zip(eager, checked, strict=False)]
    error, array = max(errors)
    if error > TOLERANCE[precision]:
        wrong.append(f"error {error:.1e} of {array} > {TOLERANCE[precision]:.0e}")
    return wrong, error, array


def several(rng, size, names):
    return [make(rnnx.CELLS[name], rng, size) for name in names]


def forwards_before_backward(options):
    """Run three forward passes with one cache key before their backward passes."""
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
                failures.append(f"turn {turn}, problem {i}: differs from the result alone")
    yield outcome("three forwards before a backward", failures, "4 turns, equal to the results alone")


def threads(options):
    """Run two cells on four threads: first all on one stream, then each on its own."""
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
                        failures.append(f"turn {turn}, problem {i} ({names[i]}): differs from the result alone")
        yield outcome(f"four threads {kind}", failures, f"{len(problems)} problems, equal to the results alone")


def streams(options):
    """Use inputs that a slow kernel produces on a non-blocking stream, then two such streams at once."""
    device = Gpu()
    problems = several(np.random.default_rng(options["seed"]), MIDDLE, ["lstm", "gru"])
    expected = [call(device, problem) for problem in problems]
    given = [upload(device, problem) for problem in problems]
    inputs = [one.x.copy() for one in given]
    wait, failures = device.xp.RawKernel(WAIT, "wait"), []
    queues = [device.stream() for _ in problems]

    def start(i):
        with queues[i], device.use():
            given[i].x.fill(np.nan)
            wait((1,), (1,), (np.int64(40_000_000),))  # about 20 ms
            given[i].x[...] = inputs[i]
            return results(given[i], *forward(given[i]))

    def wrong(i, found):
        with queues[i]:
            return not same_bits({name: device.to_host(a) for name, a in found.items()}, expected[i])

    device.synchronize()
    for turn in range(5):
        for i in range(2):
            failures += [f"turn {turn}: stream {i} alone"] if wrong(i, start(i)) else []
    yield outcome("late inputs on a non-blocking stream", failures, "2 streams x 5 calls, same bits")
    failures = []
    for turn in range(10):
        both = [start(i) for i in range(2)]
        failures += [f"turn {turn}: stream {i}" for i, found in enumerate(both) if wrong(i, found)]
    yield outcome("two streams at the same time", failures, "10 calls on each, same bits")
    yield _there_and_back(device, wait, queues, given[0], expected[0])


def _there_and_back(device, wait, queues, given, expected):
    """Run forward on one stream, and backward on another that waits for the first by an event."""
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


CHILDREN = {f.__name__: f for f in (cases, persistent, forwards_before_backward, threads, streams)}
