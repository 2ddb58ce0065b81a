"""The CPU engine against the reference engine, and its compile times. ``python engines_table.py``. Not run by asv.

The engines run in separate processes, alternately, three times; the table shows the median of the medians. The last
column is the rate of the CPU engine's training step relative to NumPy's GEMM at n = 1024 in the same run.
"""

import argparse
import functools
import time

import numpy as np
from shared import GATES, child, flops, median_ms, versions

from rnnx.compare.process import in_turn

SIZES = [(3, 5, 10, 7), (27, 64, 1, 100), (27, 64, 32, 25), (64, 128, 32, 50), (37, 100, 20, 40), (128, 256, 64, 50)]
ENGINES = ("reference", "cpu")
ROUNDS = 3


def measure(engine, cell, dtype):
    """Return the milliseconds of forward and of a training step by size, and the seconds of the first call."""
    import rnnx

    result = {}
    rng = np.random.default_rng(0)
    with rnnx.use_engine(engine):
        start = time.perf_counter()
        if engine == "cpu":
            rnnx.warm_up(cell, dtypes=(dtype,))
        result["compile_s"] = time.perf_counter() - start
        for size in SIZES:
            n_x, n_a, m, n_steps = size
            p = rnnx.initialize_parameters(cell, n_x, n_a, seed=0, dtype=dtype)
            x = np.asfortranarray(rng.standard_normal((n_x, m, n_steps)).astype(dtype))
            da = np.asfortranarray(rng.standard_normal((n_a, m, n_steps)).astype(dtype))

            def forward(x=x, p=p):
                return rnnx.recurrent_forward(cell, x, (), p)

            def step(forward=forward, da=da):
                rnnx.recurrent_backward(cell, (da,), forward()[2])

            result[size] = [median_ms(forward), median_ms(step)]
    return result


def gemm_rate(dtype):
    """Return GFLOP/s of a square matrix product."""
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(dtype)
    return 2 * 1024**3 / median_ms(lambda: a @ a) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--cells", nargs="+", default=list(GATES), choices=GATES)
    arguments = parser.parse_args()
    print(versions())
    for dtype in arguments.dtypes:
        rate = gemm_rate(dtype)
        print(f"\n{dtype}; GEMM {rate:.0f} GFLOP/s\n")
        print(
            "| cell | (n_x, n_a, m, T_x) | forward reference | cpu | ratio | step reference | cpu | ratio | of GEMM |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        seconds = {}
        for cell in arguments.cells:
            calls = {
                engine: functools.partial(child, "engines_table:measure", engine, cell, dtype) for engine in ENGINES
            }
            runs = in_turn(calls, ROUNDS)
            for size in SIZES:
                reference, cpu = (np.median([run[size] for run in runs[engine]], axis=0) for engine in ENGINES)
                print(
                    f"| {cell} | {size} | {reference[0]:.2f} | {cpu[0]:.2f} | {reference[0] / cpu[0]:.1f} "
                    f"| {reference[1]:.2f} | {cpu[1]:.2f} | {reference[1] / cpu[1]:.1f} "
                    f"| {flops('step', cell, size) / cpu[1] / 1e6 / rate:.0%} |",
                    flush=True,
                )
            seconds[cell] = np.median([run["compile_s"] for run in runs["cpu"]])
        print("\nfirst call, including the import of Numba: " + ", ".join(f"{c} {s:.1f} s" for c, s in seconds.items()))


if __name__ == "__main__":
    main()
