"""What the processes of all sides have in common: the order of things, the clock, the memory."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from rnnx.compare.exchange import Arrays, Request, Result

MIB = 2**20


class Side(Protocol):
    """One way to train the model of a request."""

    versions: dict[str, str]

    def train(self) -> tuple[list[float], list[float]]:
        """Losses and seconds of all steps."""
        ...

    def first_gradients(self) -> Arrays:
        """Gradients of the first batch at the present parameters, under rnnx's names."""
        ...


def main(start: Callable[[Request, str], Side]) -> None:
    """Run a side: arguments are the request's file, the result's, the way, and when the process was started."""
    request_path, result_path, way, started = sys.argv[1:]
    start_seconds = time.time() - float(started)
    memory = PeakMemory()
    request = Request.load(request_path)
    side = start(request, way)
    losses, seconds = side.train()
    peak = memory.peak()
    # Afterwards and on a new model: before the training, it would warm up what the first step shall pay for.
    gradients = start(request, way).first_gradients()
    result = Result(
        np.array(losses, np.float64), np.array(seconds), gradients, start_seconds, memory.start, peak, side.versions
    )
    result.save(result_path)


def timed(request: Request, step: Callable[[np.ndarray, np.ndarray], float]) -> tuple[list[float], list[float]]:
    """Call `step` with every batch, (m, T) inputs and targets."""
    losses, seconds = [], []
    for inputs, targets in zip(request.inputs, request.targets, strict=True):
        before = time.perf_counter()
        losses.append(float(step(inputs, targets)))
        seconds.append(time.perf_counter() - before)
    return losses, seconds


class PeakMemory:
    """Resident memory of this process now (`start`), and its peak from now on, in MiB."""

    def __init__(self) -> None:
        self.start = _resident("VmRSS")
        with contextlib.suppress(OSError):  # Linux: the peak counts from here on, not what importing took for a moment
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> float | None:
        """The peak until now."""
        return _resident("VmHWM")


def _resident(field: str) -> float | None:
    with contextlib.suppress(OSError):  # not getrusage first: on Linux a child's peak begins with its parent's
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / MIB
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
    return None
