"""The records through which threads share a job. Fields that different threads write are on separate cache lines."""

from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime.buffer_pool import LINE

MOST_THREADS = 256


def _record(*lines: str) -> np.dtype:
    """Return a structured dtype of 64-bit integers; each string lists the fields of a cache line."""
    places = {name: LINE * i + 8 * k for i, line in enumerate(lines) for k, name in enumerate(line.split())}
    names, offsets = list(places), list(places.values())
    fields: Any = {"names": names, "formats": [np.int64] * len(names), "offsets": offsets}
    dtype: np.dtype = np.dtype(fields | {"itemsize": LINE * len(lines)}, align=True)
    return dtype


# A job and how it is divided; see `thread_pool.Task`.
TASK = _record("job slices per_thread first sections loop_end waits")
# The first line is the current job: its `number`, 0 while the other fields change, its descriptor and its task. In the
# second, `acquire`, `release` and `yield_function` are addresses; `patience` and `spins` are the number of checks for
# work before a thread sleeps, during a job and between jobs, where `rests` makes it sleep at once; `workers` is the
# offset in bytes of the list of WORKER; `stop` ends the workers. `lock` is the address of a lock: who holds it may use
# the workers. `next` is the number of the next job.
MAILBOX = _record(
    "number descriptor job slices per_thread sections loop_end waits",
    "acquire release yield_function patience spins rests workers stop",
    "lock next",
)
# Of a slice: its state, 2 (number + k) if section k is the next to be run, and one more while it runs. Of a thread:
# whether it sleeps, and the address of its lock.
WORKER = _record("state", "asleep lock")
