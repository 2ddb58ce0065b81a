"""A table of the engines side by side, and of compile times; not run by asv. ``python engines_table.py``

Every engine runs in processes of its own, in turn, three times; the table shows the median of the medians. The
last column is the rate of the jit train step over the rate that NumPy's GEMM reaches on this machine in the same
run (2 n^3 operations at n = 1024).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

SIZES = [(3, 5, 10, 7), (27, 64, 1, 100), (27, 64, 32, 25), (64, 128, 32, 50), (37, 100, 20, 40), (128, 256, 64, 50)]
GATES = {"rnn": 1, "lstm": 4, "gru": 3, "gru_reset_after": 3}
ROUNDS = 3


def median_ms(f, least=0.3):
    """Median time of a call, in milliseconds, over at least 7 calls and `least` seconds."""
    f()
    times = []
    while len(times) < 7 or sum(times) < least:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def measure(engine: str, cell: str, dtype: str) -> dict:
    """Forward and train step (forward and backward) of all sizes; seconds of the first calls."""
    import rnnx

    result = {}
    rng = np.random.default_rng(0)
    with rnnx.use_engine(engine):
        start = time.perf_counter()
        if engine == "cpu":
            rnnx.warm_up(cell, dtypes=(dtype,))
        result["compile_s"] = time.perf_counter() - start
        for n_x, n_a, m, n_steps in SIZES:
            p = rnnx.initialize_parameters(cell, n_x, n_a, seed=0, dtype=dtype)
            x = np.asfortranarray(rng.standard_normal((n_x, m, n_steps)).astype(dtype))
            da = np.asfortranarray(rng.standard_normal((n_a, m, n_steps)).astype(dtype))

            def forward(x=x, p=p):
                return rnnx.recurrent_forward(cell, x, (), p)

            def step(forward=forward, da=da):
                rnnx.recurrent_backward(cell, (da,), forward()[2])

            result[str((n_x, n_a, m, n_steps))] = [median_ms(forward), median_ms(step)]
    return result


def gemm_rate(dtype: str) -> float:
    """GFLOP/s of a square GEMM."""
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(dtype)
    return 2 * 1024**3 / median_ms(lambda: a @ a) / 1e6


def child(*arguments: str) -> dict:
    command = [sys.executable, __file__, "--child", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--cells", nargs="+", default=list(GATES), choices=GATES)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*arguments.child)))
        return
    import numba

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}, Numba {numba.__version__}")
    for dtype in arguments.dtypes:
        rate = gemm_rate(dtype)
        print(f"\n{dtype}; GEMM {rate:.0f} GFLOP/s\n")
        print("| cell | (n_x, n_a, m, T_x) | forward plain | jit | ratio | step plain | jit | ratio | of GEMM |")
        print("|---|---|---|---|---|---|---|---|---|")
        seconds: dict[str, float] = {}
        for cell in arguments.cells:
            gates = GATES[cell]
            runs = [{engine: child(engine, cell, dtype) for engine in ("reference", "cpu")} for _ in range(ROUNDS)]
            for size in map(str, SIZES):
                plain, jit = (np.median([run[e][size] for run in runs], axis=0) for e in ("reference", "cpu"))
                n_x, n_a, m, n_steps = json.loads(size.replace("(", "[").replace(")", "]"))
                flops = 3 * 2 * gates * n_a * (n_x + n_a) * m * n_steps
                print(
                    f"| {cell} | {size} | {plain[0]:.2f} | {jit[0]:.2f} | {plain[0] / jit[0]:.1f} "
                    f"| {plain[1]:.2f} | {jit[1]:.2f} | {plain[1] / jit[1]:.1f} | {flops / jit[1] / 1e6 / rate:.0%} |",
                    flush=True,
                )
            seconds[cell] = np.median([run["cpu"]["compile_s"] for run in runs])
        print("\nfirst call, import of Numba included: " + ", ".join(f"{c} {s:.1f} s" for c, s in seconds.items()))


if __name__ == "__main__":
    main()
