"""Training on a text that is larger than memory. Not run by asv.

``python asv_benchmarks/large_text.py --gb 10 --folder /var/tmp``     half an hour, and 20 GB in the folder

Writes a text of this size, and then reads it and trains on shuffled windows and on streams, in a new process. Memory is
the process's own (RssAnon), which the system cannot take back as it can pages of mapped files; Linux only. The shell's
``ulimit -d 1048576`` limits it to 1 GiB. To limit the pages of mapped files, too, run it in a control group:
``systemd-run --user --scope -p MemoryMax=1G python ...``.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from shared import child, versions

STEPS = 200


def write(path, size):
    """Write lines of random words until the file has this size."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), n)) for n in rng.integers(1, 10, 5000)])
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size:
            lines = rng.choice(words, (20_000, 12))
            file.write("\n".join(" ".join(line) for line in lines) + "\n")


def own_mib():
    """Return the memory of this process that is not of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def train(path, by, folder):
    """Return seconds of reading, milliseconds per step, the number of windows or characters, and peak MiB."""
    from rnnx.data import make_corpus
    from rnnx.models import CharModel
    from rnnx.optim import Adam
    from rnnx.training import Trainer

    tempfile.tempdir = folder
    peak, done = [own_mib()], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_mib())

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    corpus = make_corpus("large", Path(path), by=by, seq_length=64, validation=0.0001)
    reading = time.perf_counter() - start
    trainer = Trainer(CharModel(corpus.tokenizer.vocab_size, 128, seed=0), Adam(0.003))
    times, last = [], time.perf_counter()
    for _ in trainer.run(corpus.train, iterations=STEPS, batch_size=32):
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
    done.set()
    return reading, 1e3 * float(np.median(times[5:])), len(corpus.train), peak[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    print(f"{versions()}\n\n{options.gb:g} GB of text, 128 units, 32 windows or streams of 64 characters\n")
    print("| by | examples | s of reading | ms per step | peak MiB |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = os.path.join(folder, "large.txt")
        write(path, options.gb * 1e9)
        for by in ("windows", "streams"):
            reading, ms, n, peak = child("large_text:train", path, by, folder)
            print(f"| {by} | {n:,} | {reading:.0f} | {ms:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
