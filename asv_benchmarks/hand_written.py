"""Gradients of five hand-written LSTMs against central differences: ``python asv_benchmarks/hand_written.py FOLDER``.

Clones four projects into the folder, unless they are there, at the commits of docs/hand_written.md. The fifth is thinc,
from ``pip install thinc==9.1.1``. What is printed is the largest relative error of a gradient, and whose it is.
"""

import collections.abc
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

PROJECTS = {
    "rnn-from-scratch": ("justinliu23", "d594c247070f02e913c3c446d2d4280a43d56cc8"),
    "rnn_lstm_from_scratch": ("kjpou1", "1f8f676af1d4321ec7279086326c04378aa8964d"),
    "Recurrent_Neural_Network_From_Scratch": ("abel-shimeles", "c642c79cbf5e8b701e894cf43c637acfa46d7560"),
    "numpy-ml": ("ddbourgin", "b0359af5285fbf9699d64fd5ec059493228af03e"),
}
N_X, N_A, M, T = 3, 4, 2, 5
GATES = "fico"


def clone(folder, name):
    """The folder of a project, cloned at its commit unless it is there."""
    owner, commit = PROJECTS[name]
    path = folder / name
    if not path.exists():
        subprocess.run(["git", "clone", "-q", f"https://github.com/{owner}/{name}", path], check=True)
        subprocess.run(["git", "-C", path, "checkout", "-q", commit], check=True)
    return path


def largest_error(arrays, forward, backward, h=1e-5):
    """The largest relative error of the gradients of sum(da * a), and the array that it belongs to."""
    rng = np.random.default_rng(1)
    da = rng.standard_normal(np.shape(forward())).astype(forward().dtype)
    found, errors = backward(da), {}
    for name, array in arrays.items():
        numeric = np.zeros(array.shape)
        for i in np.ndindex(array.shape):
            kept, losses = array[i], []
            for value in (kept + h, kept - h):
                array[i] = value
                losses.append(np.sum(forward() * da, dtype=np.float64))
            array[i] = kept
            numeric[i] = (losses[0] - losses[1]) / (2 * h)
        difference = np.linalg.norm(np.reshape(found[name], array.shape) - numeric)
        errors[name] = difference / (np.linalg.norm(numeric) or 1.0)
    worst = max(errors, key=errors.get)
    return errors[worst], worst


def problem(scale, steps=T, m=M):
    """Inputs, initial states and parameters with the course's names."""
    rng = np.random.default_rng(0)
    p = {f"W{gate}": scale * rng.standard_normal((N_A, N_A + N_X)) for gate in GATES}
    p |= {f"b{gate}": scale * rng.standard_normal((N_A, 1)) for gate in GATES}
    p |= {"Wy": np.zeros((2, N_A)), "by": np.zeros((2, 1))}
    return rng.standard_normal((N_X, m, steps)), rng.standard_normal((N_A, m)), p


def by_the_course(forward, backward, scale, steps=T):
    """A project with the functions of the course; its forward function returns `a` first and the caches last."""
    x, a0, p = problem(scale, steps)
    arrays = {"x": x, "a0": a0, **{name: value for name, value in p.items() if name not in ("Wy", "by")}}

    def gradients(da):
        found = backward(da, forward(x, a0, p)[-1])
        return {name: found[f"d{name}"] for name in arrays}

    return largest_error(arrays, lambda: forward(x, a0, p)[0], gradients)


def notebook(path):
    """Names that the code cells with functions of a notebook define."""
    scope = {"np": np}
    exec((path.parent / "rnn_utils.py").read_text(encoding="utf-8"), scope)
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "def lstm" in source:
            exec(source, scope)
    return scope


def course_notebook(path):
    """Three sequence lengths of the notebook of the older course."""
    scope = notebook(next(path.glob("*.ipynb")))
    for steps in (1, 2, T):
        yield f"{steps} steps", by_the_course(scope["lstm_forward"], scope["lstm_backward"], 1.0, steps)


def right_one(path):
    """The same functions with the gradient carried through all steps."""
    spec = importlib.util.spec_from_file_location("rnn", path / "rnn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield f"{T} steps", by_the_course(module.lstm_forward, module.lstm_backward, 1.0)


def small_weights(path):
    """Three scales of the weights; this one reads indices, one sequence at a time."""
    sys.path.insert(0, str(path))
    module = importlib.import_module("src.models.lstm_model")
    for scale in (0.01, 0.5, 1.0):
        _, a0, p = problem(scale, m=1)
        x = np.array([0, 2, 1, 1, 0])
        arrays = {name: value for name, value in p.items() if name not in ("Wy", "by")}

        def run(x=x, a0=a0, p=p):
            return module.lstm_forward(x, a0, p)

        def gradients(da, run=run, arrays=arrays):
            found = module.lstm_backwards(da, run()[-1])
            return {name: found[f"d{name}"] for name in arrays}

        yield f"weights of scale {scale:g}", largest_error(arrays, lambda run=run: run()[0], gradients)


def thinc_paths(_):
    """Both implementations in thinc: the one in Cython, and the one that GPUs use, here on NumPy arrays."""
    from thinc.backends import NumpyOps, Ops

    ops = NumpyOps()
    for name, cls in ("CPU", NumpyOps), ("GPU, on NumPy arrays", Ops):
        rng = np.random.default_rng(0)
        weights = rng.standard_normal(4 * N_A * (N_X + N_A) + 8 * N_A).astype("f")
        x = rng.standard_normal((T * M, N_X)).astype("f")
        h0 = c0 = np.zeros((1, 1, N_A), "f")
        sizes = np.full(T, M, "i")

        def run(cls=cls, weights=weights, x=x, h0=h0, c0=c0, sizes=sizes):
            return cls.lstm_forward_training(ops, weights, h0, c0, x, sizes)

        def gradients(da, cls=cls, run=run, weights=weights, sizes=sizes):
            dx, dweights = cls.backprop_lstm(ops, da, sizes, weights, run()[1])
            return {"x": dx, "all weights": dweights}

        arrays = {"x": x, "all weights": weights}
        yield name, largest_error(arrays, lambda run=run: run()[0], gradients, h=1e-2)


def layer(path):
    """A layer that cannot be made."""
    sys.path.insert(0, str(path))
    collections.Hashable = collections.abc.Hashable  # where Python 3.9 had it
    layers = importlib.import_module("numpy_ml.neural_nets.layers")
    model = layers.LSTM(N_A)
    yield "layer", (float("nan"), str(model.forward(np.ones((M, N_X, T)))))


LSTMS = {
    "rnn-from-scratch": course_notebook,
    "rnn_lstm_from_scratch": small_weights,
    "thinc": thinc_paths,
    "numpy-ml": layer,
    "Recurrent_Neural_Network_From_Scratch": right_one,
}


def main(folder):
    """Print a line for each project and each setting of it."""
    for name, settings in LSTMS.items():
        try:
            for setting, (error, array) in settings(clone(folder, name) if name in PROJECTS else None):
                print(f"{name}, {setting}: relative error {error:.1e}, of d{array}", flush=True)
        except Exception as error:  # a project that fails must not hide the others
            print(f"{name}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
