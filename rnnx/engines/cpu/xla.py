"""Passes that XLA calls: on its buffers, without Python. The calls are those of `codegen.handler`."""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.codegen.call_frame import BUFFER, offset
from rnnx.engines.cpu.descriptor.fields import CALLED
from rnnx.engines.cpu.descriptor.stages import Pass
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import address
from rnnx.engines.cpu.runtime.thread_policy import choice
from rnnx.engines.cpu.runtime.thread_pool import pool


class Called(NamedTuple):
    """What calls of a pass need."""

    record: int  # its address, an attribute of the call
    workspace: int  # bytes of the last result
    kept: tuple[object, ...]  # owners of memory that compiled programs may use until the process ends


@lru_cache(maxsize=1)
def handler() -> int:
    """Return the address of the handler."""
    return object_cache.emitted_by("codegen.handler", "emit_handler", np.dtype(np.float64))["handler"]


def called(job: Pass) -> Called:
    """Prepare a pass that borrows arrays for calls on as many threads as are best now."""
    threads, unit_parallel = choice(job.work)
    return _called(job, threads if threads == 1 or pool().start(threads) else 1, unit_parallel)


@cache  # the records may be used until the process ends
def _called(job: Pass, threads: int, unit_parallel: bool) -> Called:
    template = job.divide(threads, unit_parallel)
    binding = template.binding(offset(BUFFER, "data"), pool().address if threads > 1 else 0)
    run = object_cache.loops("loops.frames", "run")["run"].address
    size = template.whole_size
    record = np.array((run, address(binding), size), CALLED)
    return Called(address(record), size + 8 * len(job.arrays), (record, binding, template))
