"""The cost of lengths, and torch's packed sequences, on one thread: a table for docs/performance.md.

``python asv_benchmarks/lengths.py``. Times are minima of the thread's CPU time; every row runs in processes of its own.
"""

import argparse

import numpy as np
from shared import child, least_ms, versions

SIZES = [
    (27, 64, 32, 25),
    (64, 128, 32, 50),
    (128, 256, 64, 100),
    (256, 512, 32, 60),
    (37, 100, 20, 40),
    (13, 33, 7, 90),
]
SECONDS = 1.0


def drawn(size):
    """Draw lengths between 0.3 T and T, and their inputs."""
    n_x, _, m, n_steps = size
    rng = np.random.default_rng(0)
    lengths = np.round(np.linspace(0.3, 1, m) * n_steps).astype(np.int64)
    return rng.standard_normal((n_x, m, n_steps)).astype("float32"), rng.permutation(lengths)


def rnnx_side(size):
    """Return the times of inference and a step, for all steps, for equal lengths, and for drawn lengths."""
    import rnnx

    x, lengths = drawn(size)
    x = np.asfortranarray(x)
    parameters = rnnx.initialize_parameters("lstm", *size[:2], seed=0)
    da = np.asfortranarray(np.ones((size[1], *size[2:]), "float32"))

    def step(given):
        *_, caches = rnnx.lstm_forward(x, None, parameters, lengths=given)
        rnnx.lstm_backward(da, caches)

    def inference(given):
        rnnx.lstm_forward(x, None, parameters, lengths=given, keep_caches=False)

    given = (None, np.full(size[2], size[3]), lengths)
    return [least_ms(lambda f=f, g=g: f(g), seconds=SECONDS) for f in (inference, step) for g in given]


def torch_side(size):
    """Return the times of inference and a step, for all steps and for packed sequences of the drawn lengths."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    torch.set_num_threads(1)
    x, lengths = drawn(size)
    x = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 1, 0))).requires_grad_()
    ends, layer = torch.from_numpy(lengths), torch.nn.LSTM(*size[:2])

    def run(packed):
        if not packed:
            return layer(x)[0]
        out, _ = layer(pack_padded_sequence(x, ends, enforce_sorted=False))
        return pad_packed_sequence(out, total_length=size[3])[0]

    def inference(packed):
        with torch.no_grad():
            run(packed)

    def step(packed):
        run(packed).backward(torch.ones(size[3], size[2], size[1]))

    return [least_ms(lambda f=f, p=p: f(p), seconds=SECONDS) for f in (inference, step) for p in (False, True)]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    print(versions())
    print("| (n_x, n_a, m, T_x) | mean of lengths | job | rnnx, all steps, ms | equal lengths | lengths | ", end="")
    print("torch, all steps | torch, packed | torch packed / rnnx |\n|---|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        ours, theirs = (
            np.min([child(f"lengths:{side}", size, threads=1) for _ in range(rounds)], axis=0)
            for side in ("rnnx_side", "torch_side")
        )
        mean = drawn(size)[1].mean() / size[3]
        for k, job in enumerate(("inference", "step")):
            (full, equal, ragged), (whole, packed) = ours[3 * k :][:3], theirs[2 * k :][:2]
            print(f"| {size} | {mean:.2f} T | {job} | {full:.4g} | {equal / full:.2f} | {ragged / full:.2f} | ", end="")
            print(f"{whole:.4g} | {packed / whole:.2f} | {packed / ragged:.1f} |", flush=True)


if __name__ == "__main__":
    main()
