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

from rnnx._core.environment import decoded, variable

# Rough costs in nanoseconds, measured on the machine of docs/performance.md. There, a cache line moves between cores in
# 100 to 300 ns.
_PRODUCTS = 40  # multiplications per nanosecond
_NUMBERS = 4  # that elementwise kernels read or write per nanosecond
_LEAST_ROWS = 1.5  # minimum cost, in rows: loading the weights takes as long
_WAITING = 2000  # for the barrier of a unit-parallel step
_SHARED_LINE = 250  # per cache line that two threads write to
_HAND_OVER = 5_000  # of a job to awake threads
_SECTION = 20_000  # of a job: claiming one takes a hundredth
_MOST_SECTIONS = 64
_COUNTING = 10_000  # to find out how many threads are allowed

MOST_THREADS = 256

_OMP_THREADS, _NUMBA_THREADS = variable("OMP_NUM_THREADS"), variable("NUMBA_NUM_THREADS")
_POSITIVE = re.compile("0*[1-9][0-9]{0,9}")  # `str.isdigit` also accepts digits that `int` does not, such as "²"


limit: ContextVar[int] = ContextVar("rnnx_thread_limit", default=MOST_THREADS)


@contextlib.contextmanager
def use_limit(threads: int) -> Iterator[None]:
    """Use at most this many threads in this context."""
    token = limit.set(threads)
    try:
        yield
    finally:
        limit.reset(token)


def max_threads() -> int:
    """Return the number of usable cores, limited by OMP_NUM_THREADS, NUMBA_NUM_THREADS and threadpoolctl."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit.get(), _limit(_OMP_THREADS()), _limit(_NUMBA_THREADS())]
    if "threadpoolctl" in sys.modules:
        limits += [blas.get_num_threads() or cores for blas in _blas_controllers()]
    return max(1, min(cores, *limits))


@lru_cache(maxsize=16)
def _limit(value: Any) -> int:
    """Return the first number of a list, which is for the outermost level of threads; anything else is no limit.

    `value` is that of an environment variable, encoded.
    """
    first = decoded(value).split(",")[0].strip()
    return int(first) if _POSITIVE.fullmatch(first) else MOST_THREADS


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
    numbers: int  # read or written by elementwise kernels in total
    shares: int  # parts the units can be divided into, 0 if they must stay together
    shared_lines: int  # cache lines that neighbouring examples share, per step
    waits: bool  # whether unit-parallel threads wait for each other in every step, for a recurrent product

    @cached_property
    def alone_ns(self) -> float:
        """Estimated nanoseconds on one thread."""
        return self._ns(self.m, 1)

    def shared_ns(self, threads: int, unit_parallel: bool) -> float:
        """Estimated nanoseconds on several threads."""
        lines = self.shared_lines * _SHARED_LINE
        if unit_parallel:
            waiting = _WAITING if self.waits else 0
            return self._ns(self.m, threads) + self.n_steps * (waiting + self.m * lines) + _HAND_OVER
        return self._ns(-(-self.m // threads), 1) + self.n_steps * lines + _HAND_OVER

    def sections(self, threads: int, steps: int) -> int:
        """Return the number of sections for `steps` steps that threads share without waiting for each other.

        In each section, another thread may go on with the work of one that has lost its core.
        """
        if threads == 1:
            return 1
        return max(1, min(steps, _MOST_SECTIONS, int(self.alone_ns / threads / _SECTION)))

    def _ns(self, rows: int, unit_shares: int) -> float:
        per_row = self.products / _PRODUCTS * max(rows, _LEAST_ROWS) + self.numbers / _NUMBERS * rows
        return per_row / self.m / unit_shares

    @cached_property
    def is_small(self) -> bool:
        """Whether it takes too little time to be worth counting threads."""
        return self.alone_ns <= 2 * (_HAND_OVER + _COUNTING)


def split(work: Work) -> tuple[int, bool]:
    """Return the number of threads for a job, and whether it is unit-parallel."""
    return (1, False) if work.is_small else _fastest(work, max_threads())


@lru_cache(maxsize=1024)
def _fastest(work: Work, n: int) -> tuple[int, bool]:
    choices = [(min(n, work.m), False), (min(n, work.shares), True)]
    return min([(1, False), *choices], key=lambda way: work.alone_ns if way[0] <= 1 else work.shared_ns(*way))


@dataclass(frozen=True)
class Policy:
    """How jobs are shared among threads."""

    split: Callable[[Work], tuple[int, bool]] = split
    measures: bool = True  # whether jobs run on one thread if several have been slower


policy: ContextVar[Policy] = ContextVar("rnnx_thread_policy", default=Policy())  # noqa: B039


def choice(work: Work) -> tuple[int, bool]:
    """Return what the policy of this context chooses; batch-parallel if the units must stay together."""
    chosen = policy.get().split
    if chosen is split and work.is_small:
        return 1, False
    threads, unit_parallel = chosen(work)
    return max(threads, 1), unit_parallel and work.shares > 0


@contextlib.contextmanager
def use_policy(split: Callable[[Work], tuple[int, bool]]) -> Iterator[None]:
    """Set the policy of this context, for all jobs, whether or not several threads have been faster."""
    token = policy.set(Policy(split, measures=False))
    try:
        yield
    finally:
        policy.reset(token)
