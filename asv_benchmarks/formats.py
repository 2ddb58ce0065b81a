"""rnnx's small formats against float32 and onnxruntime, inference of an LSTM on one thread. Not run by asv.

``python asv_benchmarks/formats.py``            n_a = n_x from 128 to 1024, 1 and 8 examples, 50 steps

onnxruntime runs its LSTM, also after its dynamic quantization to int8; see `onnx_sides.py`. The sides run in separate
processes, alternately, for `--rounds` rounds; a result is the minimum of all calls.
"""

import argparse
import functools
import time

import numpy as np
from onnx_sides import onnx_sequence
from shared import child, least_ms, versions

from rnnx.compare.process import in_turn

RNNX, ONNX = ("float32", "bfloat16", "int8"), ("onnxruntime", "onnxruntime int8")
STEPS = 50
least = functools.partial(least_ms, clock=time.perf_counter)


def measure(side, n, m):
    """Return milliseconds for a sequence, and for as many steps of a stream (None for onnxruntime)."""
    x = np.random.default_rng(0).standard_normal((STEPS, m, n)).astype(np.float32)
    if side in ONNX:
        return least(onnx_sequence("lstm", n, x, quantized=side != ONNX[0], threads=1)), None
    import rnnx

    parameters = rnnx.initialize_parameters("lstm", n, n, seed=0)
    if side != "float32":
        parameters = rnnx.quantize("lstm", parameters, side)
    stream, steps = rnnx.Stream("lstm", parameters, m=m), [np.ascontiguousarray(xt.T) for xt in x]
    sequence = least(lambda: rnnx.recurrent_forward("lstm", x.T, (), parameters, keep_caches=False))
    return sequence, least(lambda: [stream.step(xt) for xt in steps])


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
