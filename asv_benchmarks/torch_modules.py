"""The modules of `rnnx.interop.torch` against torch's own, inside torch. Not run by asv.

``python asv_benchmarks/torch_modules.py``                      everything, in about ten minutes on one thread
``python asv_benchmarks/torch_modules.py --layers GRU --dtypes float32 --jobs step --threads 2``

A step is forward and backward with all gradients. Lengths are uniform between T / 3 and T, as a PackedSequence. "own"
compares `Recurrent` for the peephole LSTM with a loop over `torch` operations, eager and compiled. The sides run in
separate processes, alternately; a result is the median of the rounds' medians.
"""

import argparse
import functools

import numpy as np
from shared import child, median_ms, versions

from rnnx.compare.process import in_turn

SIZES = [
    (64, 128, 1, 64),
    (27, 64, 32, 25),
    (40, 100, 50, 30),
    (64, 128, 32, 50),
    (128, 256, 64, 100),
    (256, 512, 32, 60),
]
LAYERS = ("LSTM", "GRU", "RNN")


class Peephole:
    """The peephole LSTM as users write it in torch."""

    def __init__(self, n_x, n_a):
        import torch

        scale = n_a**-0.5
        self.w_x = (scale * torch.randn(4 * n_a, n_x)).requires_grad_()
        self.w_h = (scale * torch.randn(4 * n_a, n_a)).requires_grad_()
        self.b, self.p = torch.zeros(4 * n_a, requires_grad=True), torch.zeros(3, n_a, requires_grad=True)

    def __call__(self, x):
        import torch

        zx = x @ self.w_x.T + self.b
        a = c = x.new_zeros(x.shape[1], self.p.shape[1])
        outputs = []
        for t in range(x.shape[0]):
            f, i, g, o = (zx[t] + a @ self.w_h.T).chunk(4, 1)
            c_next = torch.sigmoid(f + self.p[0] * c) * c + torch.sigmoid(i + self.p[1] * c) * torch.tanh(g)
            a, c = torch.sigmoid(o + self.p[2] * c_next) * torch.tanh(c_next), c_next
            outputs.append(a)
        return torch.stack(outputs), None


def make_layer(side, layer, n_x, n_a):
    """Return a function from inputs to outputs."""
    import torch

    import rnnx.interop.torch as rt

    if layer != "own":
        return getattr(rt if side == "rnnx" else torch.nn, layer)(n_x, n_a)
    if side == "rnnx":
        return rt.Recurrent("peephole_lstm", n_x, n_a)
    return torch.compile(Peephole(n_x, n_a)) if side == "compiled" else Peephole(n_x, n_a)


def measure(side, layer, job, dtype, size, threads):
    """Return milliseconds of a call."""
    import torch

    n_x, n_a, m, n_steps = size
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_default_dtype(getattr(torch, dtype))
    run, x = make_layer(side, layer, n_x, n_a), torch.randn(n_steps, m, n_x)
    if job == "lengths":
        lengths = torch.randint(max(n_steps // 3, 1), n_steps + 1, (m,))
        lengths[0] = n_steps
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    else:
        x.requires_grad_(job == "step")
    if job == "inference":
        with torch.no_grad():
            return median_ms(lambda: run(x))
    found = run(x)[0]
    d = torch.randn_like(found.data if job == "lengths" else found)

    def step():
        out = run(x)[0]
        (out.data if job == "lengths" else out).backward(d)

    return median_ms(step)


def compare(layer, job, dtype, options):
    """Measure and print one table."""
    sides = ["rnnx", "torch", "compiled"] if layer == "own" and options.compiled else ["rnnx", "torch"]
    sizes = [tuple(map(int, size.split(","))) for size in options.sizes or []] or SIZES
    calls = {
        (side, size): functools.partial(child, "torch_modules:measure", side, layer, job, dtype, size, options.threads)
        for size in sizes
        for side in sides
    }
    found = {key: float(np.median(runs)) for key, runs in in_turn(calls, options.rounds).items()}
    print(f"\n**{layer}, {job}, {dtype}, {options.threads} threads**\n")
    columns = [f"{side} ms" for side in sides] + [f"{side} / rnnx" for side in sides[1:]]
    print(f"| (n_x, n_a, m, T) | {' | '.join(columns)} |")
    print("|---" * (2 * len(sides)) + "|")
    ratios = []
    for size in sizes:
        ms = [found[side, size] for side in sides]
        ratios.append(ms[1] / ms[0])
        row = [f"{value:.3g}" for value in ms] + [f"{value / ms[0]:.2f}" for value in ms[1:]]
        print(f"| {size} | {' | '.join(row)} |", flush=True)
    print(f"\ntorch / rnnx: geometric mean {np.exp(np.mean(np.log(ratios))):.2f}, least {min(ratios):.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", choices=[*LAYERS, "own"], default=[*LAYERS, "own"])
    parser.add_argument("--jobs", nargs="+", choices=["step", "inference", "lengths"], default=["step", "inference"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32"])
    parser.add_argument("--sizes", nargs="+", help="each as n_x,n_a,m,T")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="also compile the loop of `own`; takes minutes")
    options = parser.parse_args()
    print(versions())
    for dtype in options.dtypes:
        for layer in options.layers:
            for job in options.jobs:
                if not (layer == "own" and job == "lengths"):
                    compare(layer, job, dtype, options)


if __name__ == "__main__":
    main()
