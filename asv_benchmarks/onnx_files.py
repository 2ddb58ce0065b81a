"""Every model with every cell as an ONNX file, in onnxruntime and here: a table for docs/onnx.md. Not run by asv.

``python asv_benchmarks/onnx_files.py``                     all cells, in about ten minutes on one thread
``python asv_benchmarks/onnx_files.py --cells lstm mgu --size 64,128,32,50 --rounds 3``

The error is the largest difference of any output of any model, relative to the largest output. The sides run in
separate processes, alternately; a time is the least CPU time of a call in any round, in milliseconds.
"""

import argparse
import functools

import numpy as np
from shared import child, least_ms, parsed_sizes, versions

SIZE = "64,128,32,50"
MODELS = ("CharModel", "SequenceClassifier", "SequenceRegressor", "Seq2Seq")


def make(kind, cell, size):
    """Return a model, a call of it, and the same as inputs of its file."""
    from rnnx import models

    (n_x, n_a, m, n_steps), rng = size, np.random.default_rng(0)
    sizes = [n_x, n_x, n_a] if kind == "Seq2Seq" else [n_x, n_a]
    options = {"SequenceClassifier": {"num_classes": 10}, "SequenceRegressor": {"per_step": True}}.get(kind, {})
    model = getattr(models, kind)(*sizes, cell=cell, seed=0, **options)
    indices = rng.integers(0, n_x, (m, n_steps))
    if kind == "Seq2Seq":
        feed = {"source": indices.T.copy(), "max_length": np.array(n_steps)}
        return model, lambda: model.predict(indices, max_length=n_steps), feed
    x = indices if kind == "CharModel" else np.asfortranarray(rng.standard_normal((n_x, m, n_steps)), "float32")
    extra = {name: rng.random((m, n_steps)).astype("float32") for name in cell.inputs}
    feed = {"inputs": x.T.copy()} | {name: a.T[:, :, None].copy() for name, a in extra.items()}
    return model, lambda: model.outputs(x, extra=extra or None), feed


def session_of(model):
    """Return a session of onnxruntime, and the bytes of the file."""
    import onnxruntime

    from rnnx.convert import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    data = to_onnx(model, states=False).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]), len(data)


def error_of(found, expected):
    """Return the relative error of the outputs of a file."""
    if len(expected) == 3:  # a prediction
        if not np.array_equal(found[0].T, expected.indices):
            return float("inf")
        return float(abs(found[2].swapaxes(0, 1) - expected.weights).max())
    outputs = np.asarray(expected[0]).T
    return float(abs(found[0] - outputs).max() / abs(outputs).max())


def measure(side, cell, size):
    """Return per model the milliseconds of a call, the bytes of the file and the error."""
    import rnnx

    rows = {}
    for kind in MODELS:
        model, run, feed = make(kind, rnnx.CELLS[cell], size)
        if side == "rnnx":
            rows[kind] = least_ms(run), 0, 0.0
            continue
        session, n_bytes = session_of(model)
        error = error_of(session.run(None, feed), run())
        rows[kind] = least_ms(lambda session=session, feed=feed: session.run(None, feed)), n_bytes, error
    return rows


def main():
    import rnnx

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=list(rnnx.CELLS), default=list(rnnx.CELLS))
    parser.add_argument("--size", default=SIZE, help="n_x,n_a,m,T")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    from rnnx.compare.process import in_turn

    (size,) = parsed_sizes([options.size])
    print(versions())
    print(f"\n(n_x, n_a, m, T) = {size}, one thread; onnxruntime ms / rnnx ms\n")
    print(f"| cell | kB | error | {' | '.join(MODELS)} |")
    print("|---" * (3 + len(MODELS)) + "|")
    worst = 0.0
    for cell in options.cells:
        sides = {
            side: functools.partial(child, "onnx_files:measure", side, cell, size, threads=1)
            for side in ("onnxruntime", "rnnx")
        }
        theirs, ours = in_turn(sides, options.rounds).values()
        n_bytes, error = theirs[0]["SequenceClassifier"][1], max(row[2] for row in theirs[0].values())
        worst = max(worst, error)
        times = [[min(run[kind][0] for run in runs) for runs in (theirs, ours)] for kind in ours[0]]
        shown = [f"{a:.3g} / {b:.3g}" for a, b in times]
        print(f"| {cell} | {n_bytes / 1000:.0f} | {error:.0e} | {' | '.join(shown)} |", flush=True)
    print(f"\nlargest error {worst:.1e}")


if __name__ == "__main__":
    main()
