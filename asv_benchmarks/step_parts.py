"""What a training step spends outside the recurrent layers, and the operations there. Not run by asv.

``python asv_benchmarks/step_parts.py``      CPU time of one thread, minima of many calls; half a minute

The model has 2 x 128 LSTM units and 65 characters, and reads 64 texts of 64 steps. `names` are the sizes of the
course's character model, with one name of ten characters. A *step of the course's functions* is what a learner writes:
`rnn_forward`, dense layer, loss, their backward passes, clipping, Adam.
"""

import time
from functools import lru_cache

import numpy as np
from shared import child, least_ms, versions

import rnnx

VOCABULARY, UNITS, BATCH, STEPS = 65, 128, 64, 64


def microseconds(function):
    """Return the minimum of the CPU time of a call."""
    return 1e3 * least_ms(function)


@lru_cache(maxsize=1)
def seconds_inside():
    """Return a list to which the passes of recurrent layers add their times, from now on: models keep prepared ones."""
    from rnnx.engines.cpu.engine import CpuEngine

    inside = []

    def timed(function):
        def call(*arguments):
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                inside.append(time.thread_time() - start)

        return call

    def preparing(function):
        return lambda *arguments, **keywords: timed(function(*arguments, **keywords))

    CpuEngine.prepared, CpuEngine.prepared_backward = map(preparing, (CpuEngine.prepared, CpuEngine.prepared_backward))
    return inside


def of_trainer(rng, dropout=0.0):
    """Return the time of a step of `Trainer`, and of what is outside the recurrent layers."""
    from rnnx.data import Batch
    from rnnx.models import CharModel
    from rnnx.training import Trainer

    text = rng.integers(0, VOCABULARY, (BATCH, STEPS + 1))
    batch = Batch(text[:, :-1].copy(), text[:, 1:].copy(), np.full(BATCH, STEPS))
    trainer, inside = Trainer(CharModel(VOCABULARY, UNITS, 2, seed=0, dropout=dropout), rnnx.Adam()), seconds_inside()
    steps = []
    for _ in range(25):
        inside.clear()
        start = time.thread_time()
        trainer._learn(batch)
        steps.append((time.thread_time() - start, sum(inside)))
        assert len(inside) == 4
    return {
        "step": min(whole for whole, _ in steps) * 1e6,
        "outside": min(whole - own for whole, own in steps) * 1e6,
    }


def of_operations(rng, parameters, size, units):
    """Return the times of the operations for a model and a batch (n_y, m, T)."""
    from rnnx.models import Masks

    n_y, m, n_steps = size
    a, W, b = (np.ones(shape, "float32") for shape in ((n_steps, m, units), (n_y, units), (n_y, 1)))
    z, y = (rng.standard_normal(size[::-1], dtype="float32").T for _ in range(2))
    targets = rng.integers(0, n_y, (m, n_steps))
    gradients = {"d" + key: rng.standard_normal(p.shape, dtype="float32") for key, p in parameters.items()}
    adam = rnnx.Adam()
    state = adam.init(parameters)
    out = tuple({key: np.empty_like(a) for key, a in tree.items()} for tree in (parameters, state))
    return {
        "dense forward": microseconds(lambda: rnnx.dense_forward(a.T, W, b)),
        "dense backward": microseconds(lambda: rnnx.dense_backward(z, a.T, W)),
        "mask of dropout": microseconds(lambda: Masks((0, 1)).draw("_l0", 0.3, a.T)),
        "cross-entropy": microseconds(lambda: rnnx.softmax_cross_entropy(z, targets)),
        "squared error": microseconds(lambda: rnnx.squared_error(z, y)),
        "clip by norm": microseconds(lambda: rnnx.clip_by_global_norm(gradients, 5.0)),
        "clip by value": microseconds(lambda: rnnx.clip_by_value(gradients, 1.0)),
        "Adam": microseconds(lambda: adam.update(parameters, gradients, state, 3, out=out)),
    }


def of_learner(rng, parameters):
    """Return the time of a step of the course's functions at batch 1."""
    x = rnnx.one_hot(rng.integers(0, 27, (1, 10)), 27, "float32")
    targets, a0 = rng.integers(0, 27, (1, 10)), np.zeros((50, 1), "float32")
    v, s = rnnx.initialize_adam(parameters)

    def step():
        a, _, caches = rnnx.rnn_forward(x, a0, parameters)
        z = rnnx.dense_forward(a, parameters["Wya"], parameters["by"])
        _, dz = rnnx.softmax_cross_entropy(z, targets)
        head = rnnx.dense_backward(dz, a, parameters["Wya"])
        found = rnnx.rnn_backward(head["da"], caches)
        gradients = {key: found[key] for key in ("dWax", "dWaa", "dba")} | {"dWya": head["dW"], "dby": head["db"]}
        gradients, _ = rnnx.clip_by_global_norm(gradients, 5.0)
        rnnx.update_parameters_with_adam(parameters, gradients, v, s, 3)

    return {"step of the course's functions": microseconds(step)}


def measure():
    """Return all times by name."""
    rng = np.random.default_rng(0)
    from rnnx.models import CharModel

    large = CharModel(VOCABULARY, UNITS, 2, seed=0).parameters
    small = rnnx.initialize_parameters("rnn", 27, 50, 27, seed=0)
    found = {f"2 x 128, {name}": t for name, t in of_operations(rng, large, (VOCABULARY, BATCH, STEPS), UNITS).items()}
    found |= {f"names, {name}": t for name, t in of_operations(rng, small, (27, 1, 10), 50).items()}
    found |= {f"names, {name}": t for name, t in of_learner(rng, small).items()}
    found |= {f"2 x 128, {name} of a trainer": t for name, t in of_trainer(rng).items()}
    return found | {f"2 x 128, {name} with dropout": t for name, t in of_trainer(rng, 0.3).items()}


def main():
    print(versions())
    rounds = [child("step_parts:measure", threads=1) for _ in range(3)]
    for name in rounds[0]:
        print(f"{name:40} {min(one[name] for one in rounds):9.1f} us")
    for kind in ("of a trainer", "with dropout"):
        whole, outside = (min(one[f"2 x 128, {name} {kind}"] for one in rounds) for name in ("step", "outside"))
        print(f"outside the recurrent layers, {kind}: {outside / whole:.1%}")


if __name__ == "__main__":
    main()
