"""Savings from recomputed segments and index inputs, in a step of a character model. Not run by asv.

``python asv_benchmarks/segments.py``              both tables; half a minute and 1 GiB

*Segments*: one `train_step` of an LSTM on long texts, each in a new process: without segments, with segments of the
square root of the length, and with segments of 512 steps. Memory is what the step adds to the process after a warm-up
on a short text. *Indices*: forward and backward of the recurrent layer from indices and from the equivalent one-hot
columns, alternately in one process, with one thread.
"""

import time

import numpy as np
from shared import added_mib, child, versions

VOCABULARY, UNITS, TEXTS, LENGTH = 65, 256, 8, 8192
SEGMENTS = (None, 91, 512)


def step(segment_length):
    """Return the MiB that one step adds to the process, and its seconds."""
    from rnnx.data import Batch
    from rnnx.models import CharModel

    rng = np.random.default_rng(0)
    model = CharModel(VOCABULARY, UNITS, seed=0)

    def batch(n_steps):
        text = rng.integers(0, VOCABULARY, (TEXTS, n_steps + 1))
        return Batch(text[:, :-1], text[:, 1:], None)

    given = batch(LENGTH)
    model.train_step(batch(16), segment_length=segment_length and 8)  # loads and compiles everything
    start = time.perf_counter()
    return added_mib(lambda: model.train_step(given, segment_length=segment_length)), time.perf_counter() - start


def index_ratio(n_x=VOCABULARY, n_a=128, m=32, n_steps=64, rounds=60):
    """Return the shortest times of forward and backward in ms: from indices, and from one-hot columns."""
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


def main():
    print(f"{versions()}\n\none step, {UNITS} units, {TEXTS} texts of {LENGTH} characters\n")
    print("| segment_length | MiB | s |\n|---|---|---|")
    for segment_length in SEGMENTS:
        mib, seconds = child("segments:step", segment_length)
        print(f"| {segment_length} | {mib:.0f} | {seconds:.2f} |", flush=True)
    indices, columns = child("segments:index_ratio", threads=1)
    print(f"\nforward and backward: {indices:.2f} ms from indices, {columns:.2f} ms from one-hot columns, ", end="")
    print(f"ratio {indices / columns:.2f}")


if __name__ == "__main__":
    main()
