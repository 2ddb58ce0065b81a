"""The records through which threads hand out work. Fields that other threads poll are on separate cache lines."""

from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE


def _record(*lines: str) -> np.dtype:
    """Return a structured dtype of 64-bit integers; each string lists the fields of a cache line."""
    places = {name: LINE * i + 8 * k for i, line in enumerate(lines) for k, name in enumerate(line.split())}
    names, offsets = list(places), list(places.values())
    fields: Any = {"names": names, "formats": [np.int64] * len(names), "offsets": offsets}
    dtype: np.dtype = np.dtype(fields | {"itemsize": LINE * len(lines)}, align=True)
    return dtype


# `job`, `acquire`, `release`, `yield_function` and `lock` are addresses; `spins` is the number of checks for a job
# before a worker sleeps, `workers` the offset in bytes of the list of WORKER, `done` the number of workers that have
# finished the job.
MAILBOX = _record("job descriptor n_threads acquire release yield_function spins workers", "done")
WORKER = _record("number", "asleep", "lock", "")
BARRIER = _record("arrived", "passed")
