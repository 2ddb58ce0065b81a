"""rnnx's small formats against float32 and onnxruntime, inference of an LSTM on one thread. Not run by asv.

``python asv_benchmarks/formats.py``            n_a = n_x from 128 to 1024, 1 and 8 examples, 50 steps

onnxruntime runs the LSTM that torch's exporter would write: one node, also after its dynamic quantization to int8. The
sides run in separate processes, alternately, for `--rounds` rounds; a result is the minimum of all calls.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import numpy as np
from shared import child, versions

from rnnx.compare.process import in_turn

RNNX, ONNX = ("float32", "bfloat16", "int8"), ("onnxruntime", "onnxruntime int8")
STEPS, SECONDS = 50, 0.5


def least_ms(f):
    """Return the shortest time of a call in milliseconds."""
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:])


def measure(side, n, m):
    """Return milliseconds for a sequence, and for as many steps of a stream (None for onnxruntime)."""
    x = np.random.default_rng(0).standard_normal((STEPS, m, n)).astype(np.float32)
    if side in ONNX:
        return least_ms(onnx_sequence(n, x, side != ONNX[0])), None
    import rnnx

    parameters = rnnx.initialize_parameters("lstm", n, n, seed=0)
    if side != "float32":
        parameters = rnnx.quantize("lstm", parameters, side)
    stream, steps = rnnx.Stream("lstm", parameters, m=m), [np.ascontiguousarray(xt.T) for xt in x]
    sequence = least_ms(lambda: rnnx.recurrent_forward("lstm", x.T, (), parameters, keep_caches=False))
    return sequence, least_ms(lambda: [stream.step(xt) for xt in steps])


def onnx_sequence(n, x, quantized):
    """Return a function that runs an LSTM of onnxruntime on x, time-major."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime import quantization

    rng = np.random.default_rng(0)
    shapes = {"W": (1, 4 * n, n), "R": (1, 4 * n, n), "B": (1, 8 * n)}
    weights = [
        onnx.numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(n)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node("LSTM", ["x", *shapes], ["y"], hidden_size=n)
    sizes = {"x": list(x.shape), "y": [x.shape[0], 1, x.shape[1], n]}
    given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items())
    graph = helper.make_graph([node], "lstm", [given], [found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path, small = (Path(folder) / name for name in ("lstm.onnx", "int8.onnx"))
        onnx.save(model, path)
        if quantized:
            quantization.quantize_dynamic(path, small, weight_type=quantization.QuantType.QInt8, per_channel=True)
        session = onnxruntime.InferenceSession(small if quantized else path, options)
    return lambda: session.run(None, {"x": x})


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--examples", nargs="+", type=int, default=[1, 8])
    arguments = parser.parse_args()
    print(versions() + "\n")
    columns = [f"{side}, ms" for side in (*RNNX, *ONNX)] + [f"stream {side}, ms" for side in RNNX]
    print(f"| n_a, m | {' | '.join(columns)} |\n{'|---' * (len(columns) + 1)}|")
    for n in arguments.sizes:
        for m in arguments.examples:
            sides = (*RNNX, *ONNX)
            calls = {side: functools.partial(child, "formats:measure", side, n, m, threads=1) for side in sides}
            found = in_turn(calls, arguments.rounds)
            row = [min(sequence for sequence, _ in found[side]) for side in sides]
            row += [min(steps for _, steps in found[side]) for side in RNNX]
            print(f"| {n}, {m} | {' | '.join(f'{ms:.3g}' for ms in row)} |", flush=True)


if __name__ == "__main__":
    main()
