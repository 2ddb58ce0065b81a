"""The ranks of a command that ``mpiexec`` has started several times."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from rnnx._core.devices import by_device
from rnnx.engines.cpu.runtime.thread_policy import max_threads, use_limit
from rnnx.training.distributed.group import ALONE, Group, GroupError, agreed, any_rank
from rnnx.training.distributed.mpi import MpiGroup, launched
from rnnx.training.distributed.nccl import NcclGroup, nccl_library


@contextlib.contextmanager
def training_group(device: str) -> Iterator[Group]:
    """Return the group of all ranks; only rank 0 prints, also errors that all have, and ranks share their machine."""
    if launched() == 1:
        yield ALONE
        return
    ranks = MpiGroup.launched()
    with contextlib.ExitStack() as last:
        if ranks.rank > 0:
            nowhere = last.enter_context(open(os.devnull, "w", encoding="utf-8"))
            last.enter_context(contextlib.redirect_stdout(nowhere))
        last.enter_context(use_limit(_threads(ranks)))
        try:
            yield _of_devices(ranks) if device == "cuda" else ranks
        except (FloatingPointError, GroupError):
            if ranks.rank > 0:
                raise SystemExit(1) from None
            raise


def _threads(ranks: MpiGroup) -> int:
    """Return the share of this rank in the threads of its machine, unless the launcher has bound it to some cores."""
    cores: set[Any] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {os.cpu_count()}
    places = ranks.collect((ranks.machine, sorted(cores)))
    return max(1, max_threads() // places.count(places[ranks.rank]))


def _of_devices(ranks: MpiGroup) -> Group:
    """Return the group of the GPUs of all ranks; without a GPU for each, arrays are sent through the host."""
    cupy = agreed(ranks, lambda: by_device("cuda"))
    n = cupy.cuda.runtime.getDeviceCount()
    cupy.cuda.Device(ranks.local_rank % n).use()
    if any_rank(ranks, ranks.local_size > n):
        return ranks
    agreed(ranks, nccl_library)
    return NcclGroup(ranks)
