"""What computing segments again saves, and what indices save: a step of a character model. Not run by asv.

``python asv_benchmarks/segments.py``              both tables; half a minute and 1 GiB

*Segments*: one `train_step` of an LSTM on long texts, in a process each: without segments, with the square root of the
length, and with 512 steps. The memory is what the step adds to the most memory of the process, after a step of the
same shapes on a short text. *Indices*: a pass forward and back of the recurrent layer from indices, and from the
one-hot columns they stand for, in turn in one process, with one thread.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
from peers import resident_mib

VOCABULARY, UNITS, TEXTS, LENGTH = 65, 256, 8, 8192
SEGMENTS = (None, 91, 512)


def step(segment_length):
    """MiB that one step adds, and its seconds."""
    from rnnx.data import Batch
    from rnnx.models import CharModel

    rng = np.random.default_rng(0)
    model = CharModel(VOCABULARY, UNITS, seed=0)

    def batch(n_steps):
        text = rng.integers(0, VOCABULARY, (TEXTS, n_steps + 1))
        return Batch(text[:, :-1], text[:, 1:], None)

    given = batch(LENGTH)
    model.train_step(batch(16), segment_length=segment_length and 8)  # all that is loaded and compiled
    before, start = resident_mib(), time.perf_counter()
    model.train_step(given, segment_length=segment_length)
    return resident_mib() - before, time.perf_counter() - start


def index_ratio(n_x=VOCABULARY, n_a=128, m=32, n_steps=64, rounds=60):
    """Fastest milliseconds of a pass forward and back: from indices, and from one-hot columns."""
    import rnnx

    rng = np.random.default_rng(0)
    parameters = rnnx.initialize_parameters("lstm", n_x, n_a, seed=0, dtype="float32")
    indices = rng.integers(0, n_x, (m, n_steps))
    columns = np.asfortranarray(rnnx.one_hot(indices, n_x).astype(np.float32))
    da = np.asfortranarray(rng.standard_normal((n_a, m, n_steps), dtype=np.float32))
    times = {"indices": [], "columns": []}
    for _ in range(rounds):
        for name, x in (("indices", indices), ("columns", columns)):
            start = time.perf_counter()
            caches = rnnx.lstm_forward(x, None, parameters)[-1]
            rnnx.lstm_backward(da, caches, consume=True)
            times[name].append(time.perf_counter() - start)
    return [1e3 * min(times[name]) for name in ("indices", "columns")]


def child(*arguments, **environment):
    """The result of a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment}).stdout
    return json.loads(said.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, *given = json.loads(arguments.child)
        print(json.dumps({"step": step, "index_ratio": index_ratio}[name](*given)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}\n")
    print(
        f"one step, {UNITS} units, {TEXTS} texts of {LENGTH} characters\n\n| segment_length | MiB | s |\n|---|---|---|"
    )
    for segment_length in SEGMENTS:
        mib, seconds = child("step", segment_length)
        print(f"| {segment_length} | {mib:.0f} | {seconds:.2f} |", flush=True)
    threads = dict.fromkeys(("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    indices, columns = child("index_ratio", **threads)
    print(f"\na pass forward and back: {indices:.2f} ms from indices, {columns:.2f} ms from one-hot columns, ", end="")
    print(f"{indices / columns:.2f} of the time")


if __name__ == "__main__":
    main()
