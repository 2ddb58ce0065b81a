"""What the scripts in this folder share: operation counts, timing, memory, child processes. Not run by asv."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path

import numpy as np

GATES = {"rnn": 1, "lstm": 4, "gru": 3, "gru_reset_after": 3}
LEAST_SECONDS, LEAST_CALLS = 0.5, 7


def flops(job, cell, size):
    """Return the FLOPs of the matrix products; a backward pass has twice as many as a forward pass."""
    n_x, n_a, m, n_steps = size
    steps = 1 if job == "stream" else n_steps
    return (3 if job == "step" else 1) * 2 * GATES[cell] * n_a * (n_x + n_a) * m * steps


def _times(f, clock, seconds):
    """Return the seconds of calls, after two warm-up calls."""
    f()
    f()
    times, left = [], seconds
    while len(times) < LEAST_CALLS or left > 0:
        start = clock()
        f()
        times.append(clock() - start)
        left -= times[-1]
    return times


def median_ms(f):
    """Return the median time of a call in milliseconds."""
    return 1e3 * float(np.median(_times(f, time.perf_counter, LEAST_SECONDS)))


def least_ms(f, clock=time.thread_time, seconds=LEAST_SECONDS):
    """Return the shortest time of a call in milliseconds; by default, of CPU time of this thread."""
    return 1e3 * min(_times(f, clock, seconds))


def use_one_core():
    """Keep this process, before it starts any thread, on one core: JAX respects no other limit of its threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def usable_cores():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parsed_sizes(texts):
    """Return the sizes that are given on the command line as "n_x,n_a,m,T_x"."""
    return [tuple(map(int, text.split(","))) for text in texts or []]


def geometric_mean(values):
    """Return the geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(values))))


def added_mib(f):
    """Return the peak resident memory during a call minus that before it, in MiB."""
    from rnnx.compare.side import PeakMemory

    memory = PeakMemory()
    f()
    return memory.peak() - memory.start


def child(target, *arguments, threads=None):
    """Run "module:function" of this folder in a new process and return its result."""
    from rnnx.compare import process

    return process.call(target, *arguments, threads=threads, folders=[Path(__file__).parent])[0]


def versions():
    """Describe machine and libraries in one line."""
    found = []
    for name in ("numpy", "numba", "llvmlite", "torch", "jax", "keras", "tensorflow", "onnxruntime"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, " + ", ".join(found)
