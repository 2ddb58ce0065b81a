"""What a call of a sequence function costs beside its compiled code. Not run by asv.

``python asv_benchmarks/call_costs.py``      minima of many calls on one core, smallest of three runs; a minute

Calls of one kind repeat, as in training and in inference: the first one chooses how to run, the others find that again.
"""

import time

import numpy as np
from shared import child, use_one_core, versions

import rnnx
from rnnx.engines.cpu.descriptor.builder import Template

PROBLEMS = [("rnn", (3, 5, 10, 7)), ("lstm", (3, 5, 10, 7)), ("lstm", (20, 20, 1, 100))]
PROBLEMS += [(cell, (64, 128, 1, 64)) for cell in ("indrnn", "mingru", "unicornn")]
SECONDS = 0.3


def microseconds(function, compiled):
    """Return the least time of a call, and the least outside compiled code; `compiled` has the seconds inside it."""
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        compiled.clear()
        start = time.perf_counter()
        function()
        whole = time.perf_counter() - start
        times.append((whole, whole - sum(compiled)))
    return [1e6 * min(column) for column in zip(*times, strict=True)]


def measure(cell, size):
    """Return the times of a forward call, a backward call and a forward call without caches."""
    use_one_core()
    n_x, n_a, m, n_steps = size
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((n_x, m, n_steps)), "float32")
    parameters = rnnx.initialize_parameters(cell, n_x, n_a, seed=0)
    states, _, caches = rnnx.recurrent_forward(cell, x, (), parameters)
    cotangents = np.asfortranarray(np.ones_like(states[0])), *[None] * (len(states) - 1)
    compiled, run = [], Template.run_alone

    def timed(*arguments):
        start = time.perf_counter()
        run(*arguments)
        compiled.append(time.perf_counter() - start)

    Template.run_alone = timed
    calls = [
        lambda: rnnx.recurrent_forward(cell, x, (), parameters),
        lambda: rnnx.recurrent_backward(cell, cotangents, caches),
        lambda: rnnx.recurrent_forward(cell, x, (), parameters, keep_caches=False),
    ]
    return [microseconds(call, compiled) for call in calls]


def main():
    print(versions())
    print("us of a call (outside compiled code)\n\n| cell, (n_x, n_a, m, T_x) | forward | backward | inference |")
    print("|---" * 4 + "|")
    for cell, size in PROBLEMS:
        runs = [child("call_costs:measure", cell, size, threads=1) for _ in range(3)]
        least = np.min(runs, axis=0)
        print(f"| {cell} {size} | {' | '.join(f'{whole:.0f} ({outside:.0f})' for whole, outside in least)} |")


if __name__ == "__main__":
    main()
