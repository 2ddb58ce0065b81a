"""All cores against one thread, while something else uses the cores. Not run by asv.

``python asv_benchmarks/under_load.py``            rnnx and, if it is installed, torch

The loads: *none*; *products*, a NumPy product before every call, whose BLAS threads go on waiting for the next one on
the cores; *process*, one busy process. Each library runs in processes of its own, with blocks of calls on all cores and
on one thread in turn. Times are milliseconds of wall time per call, the mean and the median, without the product; CPU
is the mean CPU time of the process in the same calls. The claim is that the ratio of the means is at most 1.05.
"""

import argparse
import contextlib
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
from peer_sides import SIDES
from shared import child, parsed_sizes, versions

SIZES = [(64, 128, 1, 64), (27, 64, 32, 25), (40, 100, 50, 30), (64, 128, 32, 50), (128, 256, 64, 100)]
LOADS = ("none", "products", "process")
_BLOCK = 10  # consecutive calls on all cores, or on one thread


def one_thread(side):
    """Return a context manager in which a library uses one thread."""
    if side == "torch":
        return _one_thread_of_torch()
    from rnnx.engines.cpu.runtime.thread_policy import use_policy

    return use_policy(lambda _: (1, False))


@contextlib.contextmanager
def _one_thread_of_torch():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(side, job, size, load, seconds):
    """Return pairs of wall and CPU milliseconds per call, on all cores and on one thread."""
    call = getattr(SIDES[side]("lstm", "float32", size), job)
    product = np.ones((700, 700), np.float32)
    times = {"all": [], "one": []}
    contexts = {"all": contextlib.nullcontext, "one": lambda: one_thread(side)}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["one"]) < 2 * _BLOCK:
        for how, context in contexts.items():
            with context():
                call()
                for _ in range(_BLOCK):
                    if load == "products":
                        product @ product
                    wall, cpu = time.perf_counter(), time.process_time()
                    call()
                    times[how].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {how: 1e3 * np.array(found[_BLOCK:]) for how, found in times.items()}  # without the first block


@contextlib.contextmanager
def loaded(load):
    """Run a busy process, if that is the load."""
    if load != "process":
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            yield
        finally:
            busy.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=["inference", "step"], default=["inference", "step"])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--sides", nargs="+", choices=["rnnx", "torch"], default=["rnnx", "torch"])
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T_x")
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    sides = [side for side in arguments.sides if find_spec(side)]
    sizes = parsed_sizes(arguments.sizes) or SIZES
    print(versions())
    for load in arguments.loads:
        for job in arguments.jobs:
            print(f"\n**{job}, lstm, float32, load: {load}**\n")
            print("| (n_x, n_a, m, T_x) | | all: mean | median | CPU | one: mean | median | all / one |")
            print("|---|---|---|---|---|---|---|---|")
            for size in sizes:
                for side in sides:
                    with loaded(load):
                        times = child("under_load:measure", side, job, size, load, arguments.seconds)
                    (mean, cpu), (mean_one, _) = (times[how].mean(0) for how in ("all", "one"))
                    median, median_one = (np.median(times[how][:, 0]) for how in ("all", "one"))
                    row = [f"{value:.3g}" for value in (mean, median, cpu, mean_one, median_one)]
                    print(f"| {size} | {side} | {' | '.join(row)} | {mean / mean_one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
