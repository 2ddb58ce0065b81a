"""What a call of a sequence function costs beside its compiled code. Not run by asv.

``python asv_benchmarks/call_costs.py``      minima of many calls on one core, smallest of three runs; a minute

Calls of one kind repeat, as in training and in inference: the first one chooses how to run, the others find that again.
The second table has single steps with an output layer, against plain NumPy.
"""

import time

import numpy as np
from shared import child, use_one_core, versions

import rnnx
from rnnx.engines.cpu.descriptor.builder import Template

PROBLEMS = [("rnn", (3, 5, 10, 7)), ("lstm", (3, 5, 10, 7)), ("lstm", (20, 20, 1, 100))]
PROBLEMS += [(cell, (64, 128, 1, 64)) for cell in ("indrnn", "mingru", "unicornn")]
STEPS = [(3, 5, 10), (20, 20, 1), (27, 50, 1), (27, 64, 32), (64, 128, 32)]
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


def softmax(x):
    e = np.exp(x - np.max(x, axis=0, keepdims=True))
    return e / e.sum(axis=0, keepdims=True)


def plain_rnn(xt, a, p):
    """Return what `rnn_cell_forward` does, as the course writes it."""
    a_next = np.tanh(p["Waa"] @ a + p["Wax"] @ xt + p["ba"])
    return a_next, softmax(p["Wya"] @ a_next + p["by"]), (a_next, a, xt, p)


def plain_rnn_back(da_next, cache):
    """Return what `rnn_cell_backward` does, as the course writes it."""
    a_next, a, xt, p = cache
    dz = (1 - a_next**2) * da_next
    gradients = {"dxt": p["Wax"].T @ dz, "dWax": dz @ xt.T, "da_prev": p["Waa"].T @ dz, "dWaa": dz @ a.T}
    return gradients | {"dba": dz.sum(axis=1, keepdims=True)}


def measure_steps(size):
    """Return the times of a forward and a backward step of an RNN, plain and with rnnx."""
    use_one_core()
    n_x, n_a, m = size
    xt = np.random.default_rng(0).standard_normal((n_x, m), "float32")
    a, parameters = np.zeros((n_a, m), "float32"), rnnx.initialize_parameters("rnn", n_x, n_a, n_x, seed=0)
    caches = plain_rnn(xt, a, parameters)[2], rnnx.rnn_cell_forward(xt, a, parameters)[2]
    calls = [
        lambda: plain_rnn(xt, a, parameters),
        lambda: rnnx.rnn_cell_forward(xt, a, parameters),
        lambda: plain_rnn_back(a, caches[0]),
        lambda: rnnx.rnn_cell_backward(a, caches[1]),
    ]
    return [microseconds(call, [])[0] for call in calls]


def main():
    print(versions())
    print("us of a call (outside compiled code)\n\n| cell, (n_x, n_a, m, T_x) | forward | backward | inference |")
    print("|---" * 4 + "|")
    for cell, size in PROBLEMS:
        runs = [child("call_costs:measure", cell, size, threads=1) for _ in range(3)]
        least = np.min(runs, axis=0)
        print(f"| {cell} {size} | {' | '.join(f'{whole:.0f} ({outside:.0f})' for whole, outside in least)} |")

    print("\nus of a step: plain NumPy, rnnx\n\n| rnn (n_x, n_a, m) | forward | backward |\n|---|---|---|")
    for size in STEPS:
        least = np.min([child("call_costs:measure_steps", size, threads=1) for _ in range(3)], axis=0)
        print(f"| {size} | {least[0]:.0f}, {least[1]:.0f} | {least[2]:.0f}, {least[3]:.0f} |")


if __name__ == "__main__":
    main()
