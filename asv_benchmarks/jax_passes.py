"""`rnnx.interop.jax` against `jax.lax.scan` of the same equations, both under `jax.jit`. Not run by asv.

``python asv_benchmarks/jax_passes.py --threads one``                     the tables of docs/jax.md
``python asv_benchmarks/jax_passes.py --cells gru --dtypes float64 --threads one --sizes 64,128,32,50``

The scan has the input product outside the loop and one recurrent product per stage in it. A step is forward and
backward with the gradients of x and all parameters. The sides run by turns, in a process for each measurement; a time
is the smallest of all calls in all rounds. With one thread, a process is bound to one core.
"""

import argparse
import itertools
import time

import numpy as np
from peer_plan import REQUIRED
from peer_sides import Jax, problem
from shared import child, parsed_sizes, use_one_core, versions

SIZES = [REQUIRED[k] for k in (3, 1, 0, 5)]
CELLS = ("lstm", "gru", "own")


def own_cell():
    """Return a minimal gated unit, defined as users do."""
    import rnnx
    from rnnx.cells import sigmoid, tanh

    @rnnx.cell
    def own(x, a, *, f=rnnx.Gate, c=rnnx.Gate):
        f = sigmoid(f(x, a))
        return f * tanh(c(x, f * a)) + (1 - f) * a

    return own


def rnnx_side(cell, dtype, size):
    """Return a function of x and parameters, and parameters."""
    import jax

    import rnnx
    from rnnx.interop.jax import recurrent

    cell = own_cell() if cell == "own" else cell
    parameters = rnnx.initialize_parameters(cell, *size[:2], seed=0, dtype=dtype)
    return lambda x, p: recurrent(cell, x, (), p)[0], jax.tree.map(jax.numpy.asarray, parameters)


def scan_side(cell, dtype, size):
    """The same with `lax.scan`."""
    import jax
    import jax.numpy as jnp

    n_x, n, m, _ = size
    if cell != "own":
        side = Jax(cell, dtype, size)
        return lambda x, p: side.run.__wrapped__(x, *p), side.weights
    rng = np.random.default_rng(0)
    shapes = (2 * n, n_x), (2 * n, n), (2 * n,)

    def run(x, p):
        wx, wh, b = p

        def body(a, zx):
            f = jax.nn.sigmoid(zx[:, :n] + a @ wh[:n].T)
            a = f * jnp.tanh(zx[:, n:] + (f * a) @ wh[n:].T) + (1 - f) * a
            return a, a

        return jax.lax.scan(body, jnp.zeros((m, n), dtype), x @ wx.T + b)[1]

    return run, [jnp.asarray(0.1 * rng.standard_normal(shape), dtype) for shape in shapes]


def measure(side, cell, dtype, size, one_thread, seconds):
    """Return the smallest times of a step and of inference in milliseconds."""
    if one_thread:
        use_one_core()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", dtype == "float64")
    run, parameters = {"rnnx": rnnx_side, "scan": scan_side}[side](cell, dtype, size)
    x, d = map(jax.numpy.asarray, problem(dtype, size))

    @jax.jit
    def step(x, d, parameters):
        a, back = jax.vjp(run, x, parameters)
        return a, back(d)

    inference = jax.jit(run)
    return smallest_ms(lambda: step(x, d, parameters), seconds), smallest_ms(lambda: inference(x, parameters), seconds)


def smallest_ms(call, seconds):
    """Return the smallest time of calls for so many seconds, after three others."""
    import jax

    for _ in range(3):
        jax.block_until_ready(call())
    least, end = np.inf, time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        jax.block_until_ready(call())
        least = min(least, time.perf_counter() - start)
    return 1e3 * least


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--threads", nargs="+", choices=["one", "all"], default=["one", "all"])
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement")
    options = parser.parse_args()
    print(versions())
    sizes = parsed_sizes(options.sizes) or SIZES
    for threads in options.threads:
        print(f"\n**threads: {threads}**, ms of lax.scan / ms of rnnx = ratio\n")
        print(f"| cell | | {' | '.join(map(str, sizes))} |\n" + "|---" * (2 + len(sizes)) + "|")
        for cell, dtype in itertools.product(options.cells, options.dtypes):
            rows = {"step": [], "inference": []}
            for size in sizes:
                least = {"scan": [np.inf] * 2, "rnnx": [np.inf] * 2}
                for _, side in itertools.product(range(options.rounds), least):
                    given = (side, cell, dtype, size, threads == "one", options.seconds)
                    found = child("jax_passes:measure", *given, threads=1 if threads == "one" else None)
                    least[side] = np.minimum(least[side], found)
                for row, theirs, ours in zip(rows.values(), least["scan"], least["rnnx"], strict=True):
                    row.append(f"{theirs:.3g} / {ours:.3g} = {theirs / ours:.2f}")
            for job, row in rows.items():
                print(f"| {cell}, {dtype} | {job} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
