"""The records through which threads hand out work. Fields that other threads poll are on separate cache lines."""

from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE


def _record(size: int, **offsets: int) -> np.dtype:
    names, places = list(offsets), list(offsets.values())
    fields: Any = {"names": names, "formats": [np.int64] * len(names), "offsets": places, "itemsize": size}
    dtype: np.dtype = np.dtype(fields, align=True)
    return dtype


MAILBOX = _record(
    2 * LINE,
    job=0,
    descriptor=8,
    n_threads=16,
    read=24,  # addresses of C library functions
    write=32,
    yield_function=40,
    spins=48,  # checks for a job before a worker sleeps
    workers=56,  # offset in bytes of the list of WORKER
    done=LINE,  # workers that have finished the job
)
WORKER = _record(4 * LINE, number=0, asleep=LINE, read_end=2 * LINE, write_end=2 * LINE + 8, byte=2 * LINE + 16)
BARRIER = _record(2 * LINE, arrived=0, passed=LINE)
