"""rnnx against torch, Keras, JAX and the course's loops, on this machine. Not run by asv.

``python asv_benchmarks/peers.py``                 the LSTM in float32 against torch
``python asv_benchmarks/peers.py --all``           everything; about an hour
``python asv_benchmarks/peers.py --plot FILE``     plot the ratios in an earlier ``--json`` file

The sides run in separate processes, alternately, for `--rounds` rounds; a result is the median of the rounds' medians.
rnnx and torch get a process per size, so that a slow phase of the machine affects both. "Of floor" is rnnx's FLOP rate
relative to the fastest matrix product in the same run, by NumPy's BLAS or our micro-kernel.
"""

import argparse
import functools
import json
from importlib import metadata

import numpy as np
from peer_sides import SIDES
from shared import added_mib, child, flops, median_ms, versions

from rnnx.compare.process import in_turn

REQUIRED = [(64, 128, 1, 64), (27, 64, 32, 25), (64, 128, 32, 50), (128, 256, 64, 100), (256, 512, 32, 60)]
REQUIRED += [(512, 1024, 64, 25)]
ODD = [(37, 100, 20, 40), (50, 50, 1, 200), (100, 200, 16, 35), (13, 33, 7, 90), (77, 300, 48, 21), (300, 150, 128, 12)]
SIZES = REQUIRED + ODD
STREAM = [(64, 128, 1, 64)]
# job, cell, dtype, peers, sizes
PLAN = [
    ("step", "lstm", "float32", ("torch", "keras", "jax", "course", "rnnx_f"), SIZES),
    ("inference", "lstm", "float32", ("torch", "keras", "jax", "rnnx_f"), SIZES),
    ("step", "lstm", "float64", ("torch",), SIZES),
    ("step", "gru_reset_after", "float32", ("torch",), SIZES),
    ("step", "rnn", "float32", ("torch",), SIZES),
    ("stream", "lstm", "float32", ("torch", "jax", "course"), STREAM),
    ("memory", "lstm", "float32", ("torch",), [(128, 256, 64, 100), (512, 1024, 64, 25)]),
]
_SEPARATE = {"rnnx", "rnnx_f", "torch"}  # these start quickly: a process per size


def measure(side, job, cell, dtype, sizes):
    """Return milliseconds by size, or the MiB that five steps add to the process."""
    results = {}
    for size in sizes:
        try:
            given = SIDES[side](cell, dtype, size)
            if job == "memory":
                SIDES[side](cell, dtype, (2, 4, 2, 3)).step()  # loads and compiles everything
                results[size] = added_mib(lambda given=given: [given.step() for _ in range(5)])
            else:
                results[size] = median_ms(given.stream() if job == "stream" else getattr(given, job))
        except NotImplementedError:
            continue
    return results


def gemm_rate(dtype):
    """Return the best GFLOP/s of a product: NumPy's BLAS at some shapes, and our micro-kernel on all threads."""
    rng, rates = np.random.default_rng(0), []
    for m, k, n in ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 64), (6400, 256, 1024)):
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
        rates.append(2 * m * k * n / median_ms(lambda a=a, b=b: a @ b) / 1e6)
    return max(*rates, micro_kernel_rate(np.dtype(dtype)))


def micro_kernel_rate(dtype):
    """Return GFLOP/s of the micro-kernel on all threads at once: 96 rows by 512 terms by 1024 columns each."""
    from concurrent.futures import ThreadPoolExecutor

    from rnnx.engines.cpu.codegen import gemm, ir, leaves
    from rnnx.engines.cpu.descriptor import builder
    from rnnx.engines.cpu.runtime import thread_policy

    threads, (rows, n_k, columns) = thread_policy.max_threads(), (96, 512, 1024)
    panel = gemm.panel_vectors(4)
    product = leaves.python_function(leaves.PRODUCT, builder.product(dtype, panel))
    vectors, item = columns // ir.lanes(dtype), dtype.itemsize
    arrays = [
        [np.ones(shape, dtype) for shape in ((n_k, columns), (rows, n_k), (rows, columns))] for _ in range(threads)
    ]
    zeros = np.zeros(columns, dtype)

    def work(w, h, z):
        w, h, z, zero = (a.ctypes.data for a in (w, h, z, zeros))
        for _ in range(20):
            product(w, vectors, 0, vectors, n_k, h, n_k * item, item, rows, zero, 0, z, columns * item, 0)

    with ThreadPoolExecutor(threads) as pool:
        ms = median_ms(lambda: list(pool.map(lambda a: work(*a), arrays)))
    return 20 * threads * 2 * rows * n_k * columns / ms / 1e6


def run(job, cell, dtype, sides, sizes, rounds):
    """Return every side's results by size, one per round."""

    def call(side, sizes):
        return functools.partial(child, "peers:measure", side, job, cell, dtype, sizes)

    calls = {(side, size): call(side, [size]) for size in sizes for side in sides if side in _SEPARATE}
    calls |= {(side, None): call(side, sizes) for side in sides if side not in _SEPARATE}
    found = in_turn(calls, rounds)
    return {
        side: [
            {size: value for (s, _), runs in found.items() if s == side for size, value in runs[i].items()}
            for i in range(rounds)
        ]
        for side in sides
    }


def compare(job, cell, dtype, peers, sizes, rounds):
    """Measure and print one table; return its rows as a dictionary."""
    rate = child("peers:gemm_rate", dtype)
    sides = ["rnnx", *peers]
    runs = run(job, cell, dtype, sides, sizes, rounds)
    medians = {side: {k: float(np.median([run[k] for run in runs[side]])) for k in runs[side][0]} for side in sides}
    memory = job == "memory"
    print(f"\n**{job}, {cell}, {dtype}**" + ("" if memory else f"; fastest product {rate:.0f} GFLOP/s") + "\n")
    columns = [f"{side} {'MiB' if memory else 'ms'}" for side in sides] + [f"{peer} / rnnx" for peer in peers]
    columns += [] if memory else ["of floor"]
    print(f"| (n_x, n_a, m, T_x) | {' | '.join(columns)} |\n" + "|---" * (len(columns) + 1) + "|")
    for size in sizes:
        row = [f"{medians[side][size]:.4g}" if size in medians[side] else "" for side in sides]
        row += [f"{medians[p][size] / medians['rnnx'][size]:.2f}" if size in medians[p] else "" for p in peers]
        row += [] if memory else [f"{flops(job, cell, size) / medians['rnnx'][size] / 1e6 / rate:.0%}"]
        print(f"| {size} | {' | '.join(row)} |", flush=True)
    for peer in peers:
        print_summary(peer, medians, runs)
    texts = {side: {str(size): value for size, value in found.items()} for side, found in medians.items()}
    return {"job": job, "cell": cell, "dtype": dtype, "rate": rate, "medians": texts}


def print_summary(peer, medians, runs):
    """Print the geometric mean and the worst of a peer's ratios, and the means of the individual rounds."""

    def ratios(peer, rnnx):
        return [peer[size] / rnnx[size] for size in peer]

    def mean(values):
        return np.exp(np.mean(np.log(values)))

    all_ratios = ratios(medians[peer], medians["rnnx"])
    each = [mean(ratios(*pair)) for pair in zip(runs[peer], runs["rnnx"], strict=True)]
    print(
        f"\n{peer} / rnnx: geometric mean {mean(all_ratios):.2f}, worst {min(all_ratios):.2f}; "
        f"means of single rounds {min(each):.2f} to {max(each):.2f}"
    )


def draw(source, target):
    """Plot the ratio over the size, with one line per table."""
    from rnnx import plots
    from rnnx.plots import style

    with open(source) as file:
        tables = [t for t in json.load(file) if t["job"] in ("step", "inference") and "torch" in t["medians"]]
    with style.style():
        figure = style.new_figure(8, 4.5)
        axes = figure.subplots()
        for table in tables:
            rnnx, torch = table["medians"]["rnnx"], table["medians"]["torch"]
            points = sorted(
                (flops(table["job"], table["cell"], json.loads(f"[{k[1:-1]}]")) / 1e6, torch[k] / rnnx[k]) for k in rnnx
            )
            label = f"{table['cell']} {table['job']} {table['dtype']}"
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1, label=label)
        axes.axhline(1, color="gray", linewidth=1)
        axes.set(xscale="log", yscale="log", ylabel="time of torch / time of rnnx")
        axes.set_xlabel("million floating-point operations")
        axes.set_yticks(ticks := [0.8, 1, 1.5, 2, 3, 5, 10, 20, 30], labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.legend()
    plots.save(figure, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every table and every installed peer")
    parser.add_argument("--jobs", nargs="+", help="only the tables with these jobs")
    parser.add_argument("--cells", nargs="+", choices=sorted({table[1] for table in PLAN}))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"])
    parser.add_argument("--peers", nargs="+", choices=SIDES)
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T_x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--plot", nargs=2, metavar=("JSON", "PICTURE"))
    arguments = parser.parse_args()
    if arguments.plot:
        draw(*arguments.plot)
        return
    plan = PLAN if arguments.all or arguments.jobs or arguments.cells or arguments.dtypes else PLAN[:1]
    chosen = (arguments.jobs, arguments.cells, arguments.dtypes)
    plan = [t for t in plan if all(c is None or value in c for c, value in zip(chosen, t, strict=False))]
    modules = {"torch": "torch", "keras": "tensorflow", "jax": "jax"}
    absent = {p for p, m in modules.items() if m not in (d.name.lower() for d in metadata.distributions())}
    print(versions())
    tables = []
    for job, cell, dtype, peers, sizes in plan:
        wanted = arguments.peers or (peers if arguments.all else ("torch",))
        peers = [p for p in wanted if p in peers and p not in absent]
        if arguments.sizes:
            sizes = [tuple(map(int, size.split(","))) for size in arguments.sizes]
        tables.append(compare(job, cell, dtype, peers, sizes, arguments.rounds))
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(tables, file)


if __name__ == "__main__":
    main()
