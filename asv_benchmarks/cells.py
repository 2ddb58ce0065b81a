"""Every cell of rnnx against `jax.lax.scan` and PyTorch loops of the same equations. Not run by asv.

``python asv_benchmarks/cells.py``                 every cell and size, JAX and eager PyTorch; about half an hour
``python asv_benchmarks/cells.py --cells mgu sru --sizes 64,128,32,50 --peers jax torch torch_compiled``

A step is forward and backward, float32, one thread; see `cell_sides.py`. The sides run in separate processes,
alternately; a result is the median of the rounds' medians. "Per FLOP" is the time per FLOP of the matrix products,
relative to the LSTM.
"""

import argparse
import functools
import json

import numpy as np
from cell_sides import SIDES
from shared import child, geometric_mean, median_ms, parsed_sizes, use_one_core, versions

import rnnx
from rnnx.compare.process import in_turn

SIZES = [(64, 128, 32, 50), (128, 256, 64, 100), (64, 128, 1, 64)]


def measure(side, cells, size):
    """Return milliseconds by cell, on one core."""
    use_one_core()
    return {cell: median_ms(SIDES[side](cell, size).step) for cell in cells}


def flops(cell, size):
    """Return the FLOPs of the matrix products of a step: a backward pass has twice as many as a forward pass."""
    n_x, n_a, m, n_steps = size
    stages = rnnx.CELLS[cell].stages
    of_x, of_h = sum(len(s.of_inputs) for s in stages), sum(len(s.recurrent) for s in stages)
    return 3 * 2 * m * n_steps * n_a * (of_x * n_x + of_h * n_a)


def compare(cells, size, peers, rounds):
    """Measure and print the table of a size; return the medians."""
    sides = ["rnnx", *peers]
    calls = {side: functools.partial(child, "cells:measure", side, cells, size, threads=1) for side in sides}
    runs = in_turn(calls, rounds)
    medians = {side: {c: float(np.median([run[c] for run in runs[side]])) for c in cells} for side in sides}
    print(f"\n**(n_x, n_a, m, T_x) = {size}**\n")
    print(f"| cell | rnnx ms | per FLOP | {' | '.join(f'{peer} / rnnx' for peer in peers)} |")
    print("|---" * (3 + len(peers)) + "|")
    for cell in cells:
        ms = medians["rnnx"][cell]
        relative = ms / flops(cell, size) / (medians["rnnx"]["lstm"] / flops("lstm", size))
        ratios = [f"{medians[peer][cell] / ms:.2f}" for peer in peers]
        print(f"| {cell} | {ms:.3g} | {relative:.2f} | {' | '.join(ratios)} |", flush=True)
    for peer in peers:
        ratios = [medians[peer][cell] / medians["rnnx"][cell] for cell in cells]
        print(f"\n{peer} / rnnx: geometric mean {geometric_mean(ratios):.2f}, least {min(ratios):.2f}")
    return medians


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=list(rnnx.CELLS), default=list(rnnx.CELLS))
    parser.add_argument(
        "--peers", nargs="*", choices=[side for side in SIDES if side != "rnnx"], default=["jax", "torch"]
    )
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T_x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write the results to this file")
    options = parser.parse_args()
    sizes = parsed_sizes(options.sizes) or SIZES
    cells = list(dict.fromkeys(["lstm", *options.cells]))
    print(versions())
    tables = [{"size": size, "medians": compare(cells, size, options.peers, options.rounds)} for size in sizes]
    if options.json:
        with open(options.json, "w") as file:
            json.dump(tables, file)


if __name__ == "__main__":
    main()
