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
from functools import lru_cache
from typing import Any

from rnnx._core.environment import decoded, variable
from rnnx.engines.cpu.runtime.mailbox import MOST_THREADS
from rnnx.engines.cpu.runtime.work import Costs, Work

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
    most = _least(limit.get(), _OMP_THREADS(), _NUMBA_THREADS())
    if most == 1:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "threadpoolctl" in sys.modules:
        most = min([most, *(blas.get_num_threads() or cores for blas in _blas_controllers())])
    return max(1, min(cores, most))


@lru_cache(maxsize=64)
def _least(most: int, *values: Any) -> int:
    """Return the least of `most` and the limits in environment variables, given their encoded values.

    The first number of a list is for the outermost level of threads. Anything else is no limit.
    """
    texts = [decoded(value).split(",")[0].strip() for value in values]
    return min([most, *(int(text) for text in texts if _POSITIVE.fullmatch(text))])


@lru_cache(maxsize=1)
def _blas_controllers() -> list[Any]:
    """Return the controllers of NumPy's BLAS, whose threads threadpoolctl limits."""
    controllers = sys.modules["threadpoolctl"].ThreadpoolController().lib_controllers
    return [c for c in controllers if c.user_api == "blas"]


@lru_cache(maxsize=8)
def measured(threads: int) -> Costs:
    """Return the costs on this machine, of waiting only if there are several threads."""
    from rnnx.engines.cpu.runtime.costs import costs  # with a compiler

    return costs(threads)


def split(work: Work) -> tuple[int, bool]:
    """Return the number of threads for a job, and whether it is unit-parallel."""
    if work.is_small or work.gains is False:
        return 1, False
    n = max_threads()
    if n not in work.fastest:
        work.fastest[n] = _fastest(work, n)
    return work.fastest[n]


def _fastest(work: Work, n: int) -> tuple[int, bool]:
    """Return the fastest way to share a job among `n` threads at most."""
    if n == 1 or not work.may_gain(measured(2)):  # in this order: for one thread, costs are not measured
        return 1, False
    given, choices = measured(n), [(min(n, work.m), False), (min(n, work.shares), True)]
    return min([(1, False), *choices], key=lambda way: work.ns(given, *way))


@dataclass(frozen=True)
class Policy:
    """How jobs are shared among threads."""

    split: Callable[[Work], tuple[int, bool]] = split
    measures: bool = True  # whether jobs run on one thread if several have been slower


policy: ContextVar[Policy] = ContextVar("rnnx_thread_policy", default=Policy())  # noqa: B039


def choice(work: Work) -> tuple[int, bool]:
    """Return what the policy of this context chooses; batch-parallel if the units must stay together."""
    chosen = policy.get().split
    if chosen is split:
        return split(work)
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
