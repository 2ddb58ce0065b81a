"""The course's character model: `rnnx.course` against plain NumPy, as the assignment asks for it. Not run by asv.

``python asv_benchmarks/character_course.py``      2,000 iterations, nine times in turn; half a minute

Each run is in a process of its own with one thread; its CPU time counts, without importing and compiling. `whole` is
`rnnx.course.model`. In `notebook`, the learner's own `optimize` and loop call `rnn_forward`, `rnn_backward`, `clip` and
`update_parameters` of `rnnx.course`; in `own clip`, the learner's own `clip`, too.
"""

import time
from types import SimpleNamespace

import numpy as np
from shared import child, versions

ITERATIONS, UNITS, VOCABULARY = 2000, 50, 27


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / e.sum(axis=0)


class Plain:
    """The functions that the assignment provides, step by step in NumPy, and the learner's `clip`."""

    @staticmethod
    def rnn_forward(X, Y, a0, parameters, vocab_size=27):
        x, a, y_hat, loss = {}, {-1: np.copy(a0)}, {}, 0
        for t in range(len(X)):
            x[t] = np.zeros((vocab_size, 1))
            if X[t] is not None:
                x[t][X[t]] = 1
            z = np.dot(parameters["Wax"], x[t]) + np.dot(parameters["Waa"], a[t - 1]) + parameters["b"]
            a[t] = np.tanh(z)
            y_hat[t] = softmax(np.dot(parameters["Wya"], a[t]) + parameters["by"])
            loss -= np.log(y_hat[t][Y[t], 0])
        return loss, (y_hat, a, x)

    @staticmethod
    def rnn_backward(X, Y, parameters, cache):
        y_hat, a, x = cache
        gradients = {"d" + key: np.zeros_like(value) for key, value in parameters.items()}
        gradients["da_next"] = np.zeros_like(a[0])
        for t in reversed(range(len(X))):
            dy = np.copy(y_hat[t])
            dy[Y[t]] -= 1
            gradients["dWya"] += np.dot(dy, a[t].T)
            gradients["dby"] += dy
            da = np.dot(parameters["Wya"].T, dy) + gradients["da_next"]
            dz = (1 - a[t] * a[t]) * da
            gradients["db"] += dz
            gradients["dWax"] += np.dot(dz, x[t].T)
            gradients["dWaa"] += np.dot(dz, a[t - 1].T)
            gradients["da_next"] = np.dot(parameters["Waa"].T, dz)
        return gradients, a

    @staticmethod
    def update_parameters(parameters, gradients, lr):
        for key in parameters:
            parameters[key] += -lr * gradients["d" + key]
        return parameters

    @staticmethod
    def clip(gradients, maxValue):
        clipped = {key: gradients[key] for key in ("dWaa", "dWax", "dWya", "db", "dby")}
        for gradient in clipped.values():
            np.clip(gradient, -maxValue, maxValue, out=gradient)
        return clipped


def optimize(functions, X, Y, a_prev, parameters, learning_rate=0.01):
    """Written by the learner on the functions of the assignment."""
    loss, cache = functions.rnn_forward(X, Y, a_prev, parameters)
    gradients, a = functions.rnn_backward(X, Y, parameters, cache)
    gradients = functions.clip(gradients, 5)
    functions.update_parameters(parameters, gradients, learning_rate)
    return loss, gradients, a[len(X) - 1]


def names():
    """Return the built-in names and both dicts of the assignment."""
    from rnnx.data import dinosaur_names

    data = dinosaur_names().lower()
    characters = sorted(set(data))
    return data, dict(enumerate(characters)), {character: i for i, character in enumerate(characters)}


def train(functions, iterations):
    """Run the learner's loop; return the smoothed loss."""
    from rnnx import course

    data, _, char_to_ix = names()
    examples = [line.strip() for line in data.splitlines()]
    np.random.RandomState(0).shuffle(examples)
    parameters, a_prev = course.initialize_parameters(UNITS, VOCABULARY, VOCABULARY), np.zeros((UNITS, 1))
    loss = course.get_initial_loss(VOCABULARY, 7)
    for j in range(iterations):
        X = [None, *(char_to_ix[character] for character in examples[j % len(examples)])]
        Y = [*X[1:], char_to_ix["\n"]]
        current, _, a_prev = optimize(functions, X, Y, a_prev, parameters)
        loss = course.smooth(loss, current)
    return loss


def seconds(kind, iterations):
    """Return the CPU seconds of the fastest of three runs, after a short one that compiles."""
    from rnnx import course

    own = SimpleNamespace(**{**vars(course), "clip": Plain.clip})
    functions = {"plain": Plain, "notebook": course, "own clip": own}

    def run(n):
        if kind == "whole":
            data, ix_to_char, char_to_ix = names()
            course.model(data, ix_to_char, char_to_ix, n)
        else:
            train(functions[kind], n)

    run(2)
    times = []
    for _ in range(3):
        start = time.thread_time()
        run(iterations)
        times.append(time.thread_time() - start)
    return min(times)


def main():
    print(versions())
    best = {}
    for _ in range(3):
        for kind in ("plain", "own clip", "notebook", "whole"):
            result = child("character_course:seconds", kind, ITERATIONS, threads=1)
            best[kind] = min(result, best.get(kind, result))
    for kind, time_of_run in best.items():
        print(f"{kind:9} {time_of_run / ITERATIONS * 1e6:6.0f} us an iteration, {best['plain'] / time_of_run:5.2f}x")


if __name__ == "__main__":
    main()
