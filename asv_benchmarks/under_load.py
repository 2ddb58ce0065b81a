"""All cores against one thread, while something else uses the cores. Not run by asv.

``python asv_benchmarks/under_load.py``            rnnx and, if it is installed, torch

The loads: *none*; *products*, a NumPy product before every call, whose BLAS threads go on waiting for the next one on
the cores; *process*, one busy process. Each library runs in processes of its own. A round has three blocks of calls, in
random order: on all cores, on one thread, and on one thread again. Times are milliseconds of wall time per call, the
mean and the median, without the product; CPU is the mean CPU time of the process in the same calls. The claim is that
the ratio of the means is at most 1.05.

In parentheses are the bounds of nine in ten ratios if rounds are drawn again at random (bootstrap). The last column
compares one thread with itself: it differs from 1 only by what the machine does meanwhile.
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
WAYS = ("all", "one", "again")
_BLOCK = 10  # consecutive calls of a way
_LEAST_ROUNDS = 3
_DRAWN = 1000  # times that rounds are drawn again


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
    """Return the wall and CPU milliseconds of calls, (rounds, calls, 2), by way."""
    call = getattr(SIDES[side]("lstm", "float32", size), job)
    product = np.ones((700, 700), np.float32) if load == "products" else None
    times = {how: [] for how in WAYS}
    rng, until = np.random.default_rng(0), time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["all"]) <= _LEAST_ROUNDS:
        for how in rng.permutation(WAYS):
            with contextlib.nullcontext() if how == "all" else one_thread(side):
                times[how].append(_block(call, product))
    return {how: 1e3 * np.array(found[1:]) for how, found in times.items()}  # without the first round


def _block(call, product):
    """Return the wall and CPU seconds of consecutive calls, after one that does not count."""
    call()
    times = []
    for _ in range(_BLOCK):
        if product is not None:
            product @ product
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


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


def ratio(times, others):
    """Return the ratio of the means of calls, (rounds, calls), and in parentheses how certain it is."""
    a, b = times.mean(1), others.mean(1)
    rounds = np.random.default_rng(0).integers(0, len(a), (_DRAWN, len(a)))
    low, high = np.quantile(a[rounds].mean(1) / b[rounds].mean(1), (0.05, 0.95))
    return f"{a.mean() / b.mean():.2f} ({low:.2f} to {high:.2f})"


def columns(times):
    """Return the columns of a row of the table."""
    (every, cpu), (one, _), (again, _) = (times[how].transpose(2, 0, 1) for how in WAYS)
    alone = np.concatenate([one, again], axis=1)
    numbers = every.mean(), np.median(every), cpu.mean(), alone.mean(), np.median(alone)
    return [f"{value:.3g}" for value in numbers] + [ratio(every, alone), ratio(one, again)]


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
            print("| (n_x, n_a, m, T_x) | | all: mean | median | CPU | one: mean | median | all / one | one / one |")
            print("|---|---|---|---|---|---|---|---|---|")
            for size in sizes:
                for side in sides:
                    with loaded(load):
                        times = child("under_load:measure", side, job, size, load, arguments.seconds)
                    print(f"| {size} | {side} | {' | '.join(columns(times))} |", flush=True)


if __name__ == "__main__":
    main()
