"""The modules of `rnnx.interop.torch` against torch's own, inside torch. Not run by asv.

``python asv_benchmarks/torch_modules.py --limit 600``         the tables of docs/torch.md, one thread
``python asv_benchmarks/torch_modules.py --jobs training --threads 2``
``python asv_benchmarks/torch_modules.py --layers GRU --jobs step --dtypes float64 --sizes 64,128,32,50``

A step is forward and backward with all gradients, all None before. Lengths are uniform between T / 3 and T, as
a PackedSequence. The layer "own" is `Recurrent` with the peephole LSTM against a loop over `torch` operations: eager,
scripted and compiled. Each side has a process of its own, and the sides have short turns; a result is the median of the
turns' medians.

"training" is a whole training step of a small model, embedding, LSTM, linear layer and Adam, with torch's LSTM and with
ours. Both models are in one process: first each one alone, then by turns, so that the threads of one library may be
in the way of the other's.
"""

import argparse
import functools
import time

import numpy as np
from peer_plan import SIZES
from shared import child, geometric_mean, median_ms, parsed_sizes, versions
from turns import medians_in_turn

LAYERS = ("LSTM", "GRU", "RNN")
JOBS = ("step", "inference", "lengths", "training")
FEW = [(40, 100, 50, 30), (64, 128, 32, 50)]  # for packed lengths
ONE = [(64, 128, 32, 50)]  # for own cells, whose compilation takes minutes


def make_layer(side, layer, n_x, n_a):
    """Return a module."""
    import torch

    import rnnx.interop.torch as rt

    if layer != "own":
        return getattr(rt if side == "rnnx" else torch.nn, layer)(n_x, n_a)
    if side == "rnnx":
        return rt.Recurrent("peephole_lstm", n_x, n_a)
    from own_torch_cell import Peephole

    wrap = {"torch": lambda module: module, "scripted": torch.jit.script, "compiled": torch.compile}[side]
    return wrap(Peephole(n_x, n_a))


def timed(side, layer, job, dtype, size, threads):
    """Return a function that does the job once."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    n_x, n_a, m, n_steps = size
    module = make_layer(side, layer, n_x, n_a)
    x = torch.randn(n_steps, m, n_x)
    if job == "lengths":
        lengths = torch.randint(max(n_steps // 3, 1), n_steps + 1, (m,))
        lengths[0] = n_steps
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    else:
        x.requires_grad_(job == "step")

    def run():
        out = module(x)[0]
        return out.data if job == "lengths" else out

    if job == "inference":
        return torch.no_grad()(run)
    d = torch.randn_like(run())

    def step():
        module.zero_grad()
        if torch.is_tensor(x):
            x.grad = None
        run().backward(d)

    return step


def training(threads):
    """Return milliseconds of a training step by side and by whether it is alone."""
    import torch

    import rnnx.interop.torch as rt

    torch.set_num_threads(threads)
    words = torch.randint(0, 500, (50, 32))

    def trained(side):
        torch.manual_seed(0)
        embedding, lstm = torch.nn.Embedding(500, 64), (rt if side == "rnnx" else torch.nn).LSTM(64, 128, 2)
        head = torch.nn.Linear(128, 500)
        optimizer = torch.optim.Adam([*embedding.parameters(), *lstm.parameters(), *head.parameters()])

        def step():
            optimizer.zero_grad()
            z = head(lstm(embedding(words))[0])
            torch.nn.functional.cross_entropy(z[:-1].flatten(0, 1), words[1:].flatten()).backward()
            optimizer.step()

        return step

    steps = {side: trained(side) for side in ("torch", "rnnx")}
    found = {(side, "alone"): median_ms(step) for side, step in steps.items()}
    times = {side: [] for side in steps}
    for _ in range(30):
        for side, step in steps.items():
            start = time.perf_counter()
            step()
            times[side].append(1e3 * (time.perf_counter() - start))
    return found | {(side, "by turns"): float(np.median(runs)) for side, runs in times.items()}


def compare(layer, job, dtype, options):
    """Measure and print one table."""
    sides = ["rnnx", "torch", *(["scripted", "compiled"] if layer == "own" else [])]
    default = FEW if job == "lengths" else ONE if layer == "own" else SIZES
    print(f"\n**{layer}, {job}, {dtype}, {options.threads} threads**\n")
    columns = [f"{side} ms" for side in sides] + [f"{side} / rnnx" for side in sides[1:]]
    print(f"| (n_x, n_a, m, T) | {' | '.join(columns)} |")
    print("|---" * (2 * len(sides)) + "|")
    ratios = []
    for size in parsed_sizes(options.sizes) or default:
        calls = {side: ("torch_modules:timed", side, layer, job, dtype, size, options.threads) for side in sides}
        runs = medians_in_turn(calls, options.rounds, options.threads)
        ms = [float(np.median(runs[side])) for side in sides]
        ratios.append(ms[1] / ms[0])
        row = [f"{value:.3g}" for value in ms] + [f"{value / ms[0]:.2f}" for value in ms[1:]]
        print(f"| {size} | {' | '.join(row)} |", flush=True)
    print(f"\ntorch / rnnx: geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}", flush=True)


def compare_training(options):
    """Measure and print the table of whole training steps."""
    runs = [child("torch_modules:training", options.threads) for _ in range(options.rounds)]
    print(
        f"\n**training step, {options.threads} threads**\n\n| | torch ms | rnnx ms | torch / rnnx |\n|---|---|---|---|"
    )
    for how in ("alone", "by turns"):
        theirs, ours = (float(np.median([run[side, how] for run in runs])) for side in ("torch", "rnnx"))
        print(f"| {how} | {theirs:.3g} | {ours:.3g} | {theirs / ours:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", choices=[*LAYERS, "own"], default=[*LAYERS, "own"])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32"])
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no table is begun")
    options = parser.parse_args()
    print(versions())
    tables = [functools.partial(compare_training, options)] if "training" in options.jobs else []
    for dtype in options.dtypes:
        for layer in options.layers:
            jobs = [job for job in options.jobs if job in (("step", "inference") if layer == "own" else JOBS[:3])]
            tables += [functools.partial(compare, layer, job, dtype, options) for job in jobs]
    start = time.monotonic()
    for k, table in enumerate(tables):
        if time.monotonic() - start > options.limit:
            print(f"\n{len(tables) - k} tables are left out: the limit of {options.limit:g} seconds has passed")
            break
        table()


if __name__ == "__main__":
    main()
