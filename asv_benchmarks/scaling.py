"""Data-parallel training on ranks of one core each, and a model of more ranks on a network. Not run by asv.

``python asv_benchmarks/scaling.py``          both tables, in about two minutes; needs mpiexec and a core for each rank
``python asv_benchmarks/scaling.py --rounds 1 --units 64``   a quick look

Every rank has a core of its own and computes its shards of SHARD examples of STEPS characters. One rank and several
take turns, in processes of their own; a time is the shortest median of the rounds. The *speed of a rank* is the time of
one rank for all shards, divided by the time of R ranks and by R. The model adds to the time of a shard what its
gradients cost on a network: in an exchange and a gathering, every rank sends each other one its share of the bytes.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from shared import versions

VOCABULARY, SHARD, STEPS = 65, 64, 64
BANDWIDTH, LATENCY = 10e9 / 8, 20e-6  # bytes per second of 10 Gbit/s; seconds per message of MPI over TCP, assumed
RANKS = (2, 4, 8, 16, 32, 64)


def measured(units, shards, reduce, n_steps):
    """Return the seconds of a step and of the sum of its gradients, and the number of parameters; run by every rank."""
    from rnnx.data import Windows
    from rnnx.models import CharModel
    from rnnx.optim import Adam
    from rnnx.training import MpiGroup, Trainer
    from rnnx.training.distributed.reduction import Fast, Ordered

    group = MpiGroup()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[group.local_rank % len(cores)]})
    text = np.random.default_rng(0).integers(0, VOCABULARY, SHARD * shards * STEPS * (n_steps + 3))
    model = CharModel(VOCABULARY, units, seed=0)
    trainer = Trainer(model, Adam(0.001), shards=shards, group=group, reduce=reduce)
    times, start = [], time.perf_counter()
    for _ in trainer.run(Windows(text, STEPS), iterations=n_steps + 2, batch_size=SHARD * shards):
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    gradients = {f"d{name}": p for name, p in model.parameters.items()}
    sums = []
    for _ in range(n_steps):
        group.collect(None)
        start = time.perf_counter()
        one = Fast(group, model.parameters) if reduce == "fast" else Ordered(group, model.parameters, group.size)
        one.add(gradients)
        one.total()
        sums.append(time.perf_counter() - start)
    seconds = max(group.collect(float(np.median(times[2:]))))
    if group.rank == 0:
        print(json.dumps([seconds, float(np.median(sums)), model.n_parameters]))


def launched(ranks, *arguments):
    """Return what rank 0 of this script prints on several ranks."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join(folders))
    if mpiexec is None:
        sys.exit("there is no mpiexec: pip install mpich")
    about = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    own = ["--allow-run-as-root", "--bind-to", "none"] if "Open MPI" in about or "prte" in about else []
    command = [mpiexec, *own, "-n", str(ranks), sys.executable, __file__, "--child", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table(units, ranks, rounds, n_steps):
    """Print the measured times, and return the seconds of a shard and the number of parameters."""
    found = {}
    for _ in range(rounds):
        for r, reduce in ((1, "ordered"), (ranks, "ordered"), (ranks, "fast")):
            found.setdefault((r, reduce), []).append(launched(r, units, ranks, reduce, n_steps))
    alone, n_parameters = min(one[0] for one in found[1, "ordered"]), found[1, "ordered"][0][2]
    for (r, reduce), values in found.items():
        step, total = min(one[0] for one in values), min(one[1] for one in values)
        sent = 2 * (r - 1) / r * 4 * n_parameters / 1e6
        cells = units, r, reduce if r > 1 else "", f"{1e3 * step:.1f}", f"{1e3 * total:.2f}" if r > 1 else ""
        print("|", " | ".join(map(str, cells)), f"| {sent:.2f} | {alone / step / r:.3f} |", flush=True)
    return alone / ranks, n_parameters


def modelled(shard, n_parameters):
    """Print the speed of a rank on networks of several sizes."""
    for r in RANKS:
        sending = 2 * (r - 1) / r * 4 * n_parameters / BANDWIDTH
        waiting = LATENCY * (2 * (r - 1) + 2 * math.ceil(math.log2(r)))
        cost = sending + waiting
        print(f"| {r} | {1e3 * sending:.1f} | {1e3 * waiting:.1f} | {shard / (shard + cost):.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--units", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        units, shards, reduce, n_steps = options.child
        measured(int(units), int(shards), reduce, int(n_steps))
        return
    print(f"{versions()}\n\nshards of {SHARD} examples of {STEPS} characters, one core for each rank\n")
    print("| units | ranks | sum | ms per step | ms of the sum | MB sent by a rank | speed of a rank |")
    print("|---|---|---|---|---|---|---|")
    shards = {units: table(units, options.ranks, options.rounds, options.steps) for units in options.units}
    for units, (shard, n_parameters) in shards.items():
        about = f"{units} units, {n_parameters:,} parameters, {1e3 * shard:.0f} ms per shard"
        print(f"\n{about}, 10 Gbit/s, 20 µs per message\n")
        print("| ranks | ms of sending | ms of messages | speed of a rank |\n|---|---|---|---|")
        modelled(shard, n_parameters)


if __name__ == "__main__":
    main()
