"""What a call of a sequence function costs beside its compiled code. Not run by asv.

``python asv_benchmarks/call_costs.py``      minima of many calls on one core, smallest of three runs; a minute

Calls of one kind repeat, as in training and in inference: the first one chooses how to run, the others find that again.
The second table has single steps with an output layer, against plain NumPy with its BLAS on one core.
"""

import itertools
import time

import numpy as np
from shared import child, use_one_core, versions

import rnnx
from rnnx.engines.cpu.descriptor.builder import Template

PROBLEMS = [("rnn", (3, 5, 10, 7)), ("lstm", (3, 5, 10, 7)), ("lstm", (20, 20, 1, 100))]
PROBLEMS += [(cell, (64, 128, 1, 64)) for cell in ("indrnn", "mingru", "unicornn")]
STEPS = [(3, 5, 10), (20, 20, 1), (27, 50, 1), (27, 64, 32), (64, 128, 1), (64, 128, 32), (128, 256, 1), (128, 256, 8)]
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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_lstm(xt, a, c, p):
    """Return what `lstm_cell_forward` does, as the course writes it."""
    both = np.concatenate([a, xt])
    f, i, o = (sigmoid(p[f"W{gate}"] @ both + p[f"b{gate}"]) for gate in "fio")
    cc = np.tanh(p["Wc"] @ both + p["bc"])
    c_next = f * c + i * cc
    a_next = o * np.tanh(c_next)
    return a_next, c_next, softmax(p["Wy"] @ a_next + p["by"]), (a_next, c_next, a, c, f, i, cc, o, xt, p)


def plain_lstm_back(da, dc, cache):
    """Return what `lstm_cell_backward` does, as the course writes it."""
    _, c_next, a, c, f, i, cc, o, xt, p = cache
    t, n_a, both = np.tanh(c_next), a.shape[0], np.concatenate([a, xt]).T
    dc = dc + o * (1 - t**2) * da
    dz = {"f": dc * c * f * (1 - f), "i": dc * cc * i * (1 - i)}
    dz |= {"c": dc * i * (1 - cc**2), "o": da * t * o * (1 - o)}
    gradients = {f"dW{gate}": d @ both for gate, d in dz.items()}
    gradients |= {f"db{gate}": d.sum(axis=1, keepdims=True) for gate, d in dz.items()}
    gradients["da_prev"] = sum(p[f"W{gate}"][:, :n_a].T @ d for gate, d in dz.items())
    gradients["dxt"] = sum(p[f"W{gate}"][:, n_a:].T @ d for gate, d in dz.items())
    return gradients | {"dc_prev": dc * f}


PLAIN = {"rnn": (plain_rnn, plain_rnn_back, 1), "lstm": (plain_lstm, plain_lstm_back, 2)}


def measure_steps(cell, size):
    """Return the times of a forward and a backward step, plain and with rnnx."""
    use_one_core()
    n_x, n_a, m = size
    xt = np.random.default_rng(0).standard_normal((n_x, m), "float32")
    plain, plain_back, n_states = PLAIN[cell]
    forward, back = (getattr(rnnx, f"{cell}_cell_{way}") for way in ("forward", "backward"))
    states = [np.zeros((n_a, m), "float32")] * n_states
    parameters = rnnx.initialize_parameters(cell, n_x, n_a, n_x, seed=0)
    caches = plain(xt, *states, parameters)[-1], forward(xt, *states, parameters)[-1]
    calls = [
        lambda: plain(xt, *states, parameters),
        lambda: forward(xt, *states, parameters),
        lambda: plain_back(*states, caches[0]),
        lambda: back(*states, caches[1]),
    ]
    for call in (*calls, *calls):  # the first ones compile or load code, and check the arguments
        call()
    return [microseconds(call, [])[0] for call in calls]


def main():
    print(versions())
    print("us of a call (outside compiled code)\n\n| cell, (n_x, n_a, m, T_x) | forward | backward | inference |")
    print("|---" * 4 + "|")
    for cell, size in PROBLEMS:
        runs = [child("call_costs:measure", cell, size, threads=1) for _ in range(3)]
        least = np.min(runs, axis=0)
        print(f"| {cell} {size} | {' | '.join(f'{whole:.0f} ({outside:.0f})' for whole, outside in least)} |")

    print("\nus of a step: plain NumPy, rnnx\n\n| cell, (n_x, n_a, m) | forward | backward |\n|---|---|---|")
    for cell, size in itertools.product(PLAIN, STEPS):
        least = np.min([child("call_costs:measure_steps", cell, size, threads=1) for _ in range(3)], axis=0)
        print(f"| {cell} {size} | {least[0]:.0f}, {least[1]:.0f} | {least[2]:.0f}, {least[3]:.0f} |")


if __name__ == "__main__":
    main()
