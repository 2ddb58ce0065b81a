"""Characters per second of `rnnx train`, for `gpu.py`. One function per child process."""

import tempfile
import time
from pathlib import Path

import numpy as np

CHARACTERS, LENGTH, BATCH = 1_000_000, 64, 64
SECONDS = 3.0


def training(options, device, hidden_size):
    """Time whole steps of a character model's `Trainer`, as one row."""
    from gpu_device import ROOT  # noqa: F401 - makes rnnx importable

    from rnnx.training import Run, Settings

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(_text(), encoding="utf-8")
        settings = Settings(
            text=str(text), by="windows", hidden_size=(hidden_size,), seq_length=LENGTH, batch_size=BATCH, epochs=10**6
        )
        run = Run.start(Path(folder) / "run", settings, device)
        _steps(run, 5)  # compiles and captures
        steps = 5
        pace = _steps(run, steps)
        steps = max(5, min(400, int((1.0 if options["quick"] else SECONDS) / pace * steps)))
        seconds = _steps(run, steps)
    row = {"kind": "tokens", "device": device, "hidden_size": hidden_size, "steps": steps}
    yield {**row, "ms": 1e3 * seconds / steps, "per_second": BATCH * LENGTH * steps / seconds}


def _text():
    """Return random words over 28 characters."""
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, CHARACTERS).astype(np.uint8)
    letters[rng.random(CHARACTERS) < 0.18] = ord(" ")
    letters[99::100] = ord("\n")
    return letters.tobytes().decode()


def _steps(run, n):
    """Return the seconds for n steps. Only the last loss is read, which synchronizes."""
    trainer = run.trainer
    start = time.perf_counter()
    *_, last = trainer.run(run.corpus.train, iterations=trainer.step + n, batch_size=BATCH)
    assert np.isfinite(float(last.loss))
    return time.perf_counter() - start


CHILDREN = {"training": training}
