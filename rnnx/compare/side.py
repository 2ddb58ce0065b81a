"""What all sides share: the order of measurements, timing, memory."""

import contextlib
import math
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from rnnx.compare.records import Arrays, Request, Result


class Side(ABC):
    """One way to train the model of a request."""

    versions: dict[str, str]
    checked_losses = 2  # the first one and the one after an update must equal rnnx's
    note = ""  # how the model differs from rnnx's, for the report

    def __init__(self, request: Request) -> None:
        self.request, self.settings = request, request.settings

    @classmethod
    def run(cls, request: Request) -> Result:
        """Train and measure. The caller sets `start_seconds`."""
        memory = PeakMemory()
        side = cls(request)
        losses, seconds = side.train()
        peak = memory.peak()
        sample = side.sample() if np.isfinite(losses).all() else None
        # On a new model and after training: computed first, they would take the warm-up cost out of the first step.
        gradients = cls(request).first_gradients()
        return Result(
            losses=np.array(losses),
            seconds=np.array(seconds),
            gradients=gradients,
            start_seconds=np.nan,
            memory_start=memory.start,
            memory_peak=peak,
            versions=side.versions,
            checked_losses=cls.checked_losses,
            note=cls.note,
            sample=sample,
        )

    def train(self) -> tuple[list[float], list[float]]:
        """Run all steps, up to a loss that is not finite; return their losses and seconds."""
        losses, seconds = [], []
        for inputs, targets in zip(self.request.inputs, self.request.targets, strict=True):
            before = time.perf_counter()
            losses.append(float(self.step(inputs, targets)))
            seconds.append(time.perf_counter() - before)
            if not math.isfinite(losses[-1]):
                break
        return losses, seconds

    @abstractmethod
    def step(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Make one update on a batch of shape (m, T); return the loss before it."""

    @abstractmethod
    def first_gradients(self) -> Arrays:
        """Return the gradients of the first batch at the current parameters, under rnnx's names."""

    def sample(self) -> np.ndarray | None:
        """Return the request's prompt, continued by the model; None if the side samples no text."""
        return None


class PeakMemory:
    """Resident memory of this process at creation (`start`), and its peak since then, in MiB."""

    def __init__(self) -> None:
        self.start = _resident("VmRSS")
        with contextlib.suppress(OSError):  # Linux: reset the peak, which importing may have raised for a moment
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> float | None:
        """Return the peak so far."""
        return _resident("VmHWM")


def _resident(field: str) -> float | None:
    with contextlib.suppress(OSError):  # not getrusage first: on Linux the peak of a child starts at its parent's
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None
