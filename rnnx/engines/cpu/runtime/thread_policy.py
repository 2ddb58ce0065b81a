"""The policy that decides how many threads share a job, and how: `split`, unless `use_policy` sets another one.

Usually each thread runs the whole loop over time on its own examples (batch-parallel). With few examples, each thread
would read all weights for little work, so the threads share the units instead and synchronize in every step
(unit-parallel). The policy picks the faster way, or a single thread.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

# Rough costs in nanoseconds, measured on the machine of docs/performance.md. There, a cache line moves between cores in
# 100 to 300 ns.
_PRODUCTS = 40  # multiplications per nanosecond
_LEAST_ROWS = 1.5  # minimum cost, in rows: loading the weights takes as long
_WAITING = 2000  # for the barrier, per unit-parallel step
_SHARED_LINE = 250  # per cache line that two threads write to
_HAND_OVER = 5_000  # of a job to awake threads
_WAKING_UP = 500_000  # jobs shorter than this do not wait for sleeping threads

MOST_THREADS = 256

_POSITIVE = re.compile("0*[1-9][0-9]{0,9}")  # `str.isdigit` also accepts digits that `int` does not, such as "²"


def max_threads() -> int:
    """Return the number of usable cores, limited by OMP_NUM_THREADS, NUMBA_NUM_THREADS and threadpoolctl."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # OMP_NUM_THREADS may be a list; the first number is for the outermost level.
    given = (os.environ.get(name, "").split(",")[0].strip() for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    limits = [int(limit) for limit in given if _POSITIVE.fullmatch(limit)]  # anything else is ignored
    if "threadpoolctl" in sys.modules:
        limits += [blas.get_num_threads() or cores for blas in _blas_controllers()]
    return max(1, min(cores, *limits, MOST_THREADS))


@lru_cache(maxsize=1)
def _blas_controllers() -> list[Any]:
    """Return the controllers of NumPy's BLAS, whose threads threadpoolctl limits."""
    controllers = sys.modules["threadpoolctl"].ThreadpoolController().lib_controllers
    return [c for c in controllers if c.user_api == "blas"]


@dataclass(frozen=True)
class Work:
    """The size of a job that loops over time."""

    n_steps: int
    m: int  # examples
    products: int  # multiplications in total
    shares: int  # parts the units can be divided into, 0 if they must stay together
    shared_lines: int  # cache lines that neighbouring examples share, per step

    @cached_property
    def alone_ns(self) -> float:
        """Estimated nanoseconds on one thread."""
        return self.products / _PRODUCTS * max(self.m, _LEAST_ROWS) / self.m


def split(work: Work) -> tuple[int, bool]:
    """Return the number of threads for a job, and whether it is unit-parallel."""
    best, choice = work.alone_ns, (1, False)
    if best <= 2 * _HAND_OVER:
        return choice
    n, m = max_threads(), work.m
    example = work.products / (work.n_steps * m) / _PRODUCTS
    for threads, unit_parallel in ((min(n, m), False), (min(n, work.shares), True)):
        if threads > 1:
            rows = max(m, _LEAST_ROWS) / threads if unit_parallel else max(-(-m // threads), _LEAST_ROWS)
            lines = work.shared_lines * _SHARED_LINE
            cost = _WAITING + m * lines if unit_parallel else lines
            time = work.n_steps * (example * rows + cost) + _HAND_OVER
            if time < best:
                best, choice = time, (threads, unit_parallel)
    return choice


@dataclass(frozen=True)
class Policy:
    """How jobs are shared among threads."""

    split: Callable[[Work], tuple[int, bool]] = split
    short_ns: float = _WAKING_UP  # shorter jobs do not wait for sleeping threads


policy: ContextVar[Policy] = ContextVar("rnnx_thread_policy", default=Policy())  # noqa: B039


def choice(work: Work) -> tuple[int, bool]:
    """Return what the policy of this context chooses; batch-parallel if the units must stay together."""
    threads, unit_parallel = policy.get().split(work)
    return max(threads, 1), unit_parallel and work.shares > 0


@contextlib.contextmanager
def use_policy(split: Callable[[Work], tuple[int, bool]], short_ns: float = 0) -> Iterator[None]:
    """Set the policy of this context. By default, every job waits for sleeping threads."""
    token = policy.set(Policy(split, short_ns))
    try:
        yield
    finally:
        policy.reset(token)
