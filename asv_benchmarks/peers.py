"""rnnx against torch, Keras, JAX and the loops of the course, on this machine. Not run by asv.

``python asv_benchmarks/peers.py``                 the LSTM in float32 against torch, the quick look
``python asv_benchmarks/peers.py --all``           everything; about an hour
``python asv_benchmarks/peers.py --plot FILE``     draw the picture of the ratios of an earlier ``--json`` file

Every side runs in processes of its own, in turn, `--rounds` times; a figure is the median of the rounds' medians. For
torch and rnnx that is a process a size, so that a slow moment of the machine meets both. The floor is the time that
the products alone take at the best rate that a product of this machine shows in the same run, NumPy's BLAS or our
tile. What each side is given, and how it is called, stands in `peer_sides.py`.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
from peer_sides import GATES, SIDES

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
LEAST_SECONDS, LEAST_CALLS = 0.5, 7
_SEPARATE = {"rnnx", "rnnx_f", "torch"}  # those that start quickly have a process a size


def median_ms(f):
    """Median time of a call after two that do not count."""
    f()
    f()
    times = []
    while len(times) < LEAST_CALLS or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def resident_mib():
    """The most memory that this process has had, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(side, job, cell, dtype, sizes):
    """Milliseconds of every size, or the MiB that steps of the one size add to the process."""
    results = {}
    for size in sizes:
        try:
            given = SIDES[side](cell, dtype, tuple(size))
            if job == "memory":
                SIDES[side](cell, dtype, (2, 4, 2, 3)).step()  # all that is loaded and compiled
                before = resident_mib()
                for _ in range(5):
                    given.step()
                results[str(tuple(size))] = resident_mib() - before
            else:
                results[str(tuple(size))] = median_ms(given.stream() if job == "stream" else getattr(given, job))
        except NotImplementedError:
            continue
    return results


def gemm_rate(dtype):
    """The best GFLOP/s of a product: NumPy's BLAS at some shapes, and our micro-kernel on all threads."""
    rng, rates = np.random.default_rng(0), []
    for m, k, n in ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 64), (6400, 256, 1024)):
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
        rates.append(2 * m * k * n / median_ms(lambda a=a, b=b: a @ b) / 1e6)
    return max(*rates, micro_kernel_rate(np.dtype(dtype)))


def micro_kernel_rate(dtype):
    """GFLOP/s of the micro-kernel on all threads at once: 96 rows by 512 terms by 1024 columns each."""
    from concurrent.futures import ThreadPoolExecutor

    from rnnx.engines.cpu.codegen import gemm, ir, leaves
    from rnnx.engines.cpu.descriptor import builder
    from rnnx.engines.cpu.runtime import thread_pool

    threads, (rows, n_k, columns) = thread_pool.max_threads(), (96, 512, 1024)
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


def child(*arguments):
    """The result of a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{arguments}: {result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def flops(job, cell, size):
    """Of the products: forward, and twice as many backward."""
    n_x, n_a, m, n_steps = size
    steps = 1 if job == "stream" else n_steps
    return (3 if job == "step" else 1) * 2 * GATES[cell] * n_a * (n_x + n_a) * m * steps


def compare(job, cell, dtype, peers, sizes, rounds):
    """Print one table; its rows as a dictionary."""
    rate = child("gemm", dtype)
    sides = ["rnnx", *peers]
    runs = {side: [] for side in sides}
    for _ in range(rounds):
        found = {side: {} for side in sides}
        for size in sizes:
            for side in filter(_SEPARATE.__contains__, sides):
                found[side] |= child(side, job, cell, dtype, [size])
        for side in sides:
            runs[side].append(found[side] or child(side, job, cell, dtype, sizes))
    medians = {side: {k: float(np.median([run[k] for run in runs[side]])) for k in runs[side][0]} for side in sides}
    unit = "MiB" if job == "memory" else "ms"
    print(f"\n**{job}, {cell}, {dtype}**" + ("" if job == "memory" else f"; best product {rate:.0f} GFLOP/s") + "\n")
    columns = [f"{side} {unit}" for side in sides] + [f"{peer} / rnnx" for peer in peers]
    print("| (n_x, n_a, m, T_x) | " + " | ".join(columns) + (" |" if job == "memory" else " | of floor |"))
    print("|---" * (len(columns) + (1 if job == "memory" else 2)) + "|")
    for size in sizes:
        key = str(size)
        row = [f"{medians[side][key]:.4g}" if key in medians[side] else "" for side in sides]
        row += [f"{medians[p][key] / medians['rnnx'][key]:.2f}" if key in medians[p] else "" for p in peers]
        if job != "memory":
            row.append(f"{flops(job, cell, size) / medians['rnnx'][key] / 1e6 / rate:.0%}")
        print(f"| {key} | " + " | ".join(row) + " |", flush=True)
    for peer in peers:
        ratios = [medians[peer][key] / medians["rnnx"][key] for key in medians[peer]]
        each = [
            np.exp(np.mean([np.log(p[k] / r[k]) for k in p])) for p, r in zip(runs[peer], runs["rnnx"], strict=True)
        ]
        print(
            f"\n{peer} / rnnx: geometric mean {np.exp(np.mean(np.log(ratios))):.2f}, worst {min(ratios):.2f}; "
            f"means of single rounds {min(each):.2f} to {max(each):.2f}"
        )
    return {"job": job, "cell": cell, "dtype": dtype, "rate": rate, "medians": medians}


def draw(source, target):
    """The ratio over the size, one line a table."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rnnx"
    from matplotlib import pyplot

    with open(source) as file:
        tables = [t for t in json.load(file) if t["job"] in ("step", "inference") and "torch" in t["medians"]]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
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
    axes.set_yticks([0.8, 1, 1.5, 2, 3, 5, 10, 20, 30], labels=["0.8", "1", "1.5", "2", "3", "5", "10", "20", "30"])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.savefig(target, metadata={"Date": None})


def versions():
    names = ("numpy", "numba", "llvmlite", "torch", "jax", "keras", "tensorflow")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, " + ", ".join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help="every table, every peer that is installed")
    parser.add_argument("--jobs", nargs="+", help="of the tables of --all only those of these jobs")
    parser.add_argument("--cells", nargs="+", choices=GATES)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"])
    parser.add_argument("--peers", nargs="+", choices=SIDES)
    parser.add_argument("--sizes", nargs="+", help="as n_x,n_a,m,T_x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--plot", nargs=2, metavar=("JSON", "PICTURE"))
    arguments = parser.parse_args()
    if arguments.child:
        given = json.loads(arguments.child)
        print(json.dumps(gemm_rate(given[1]) if given[0] == "gemm" else measure(*given)))
        return
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
