"""The policy that decides how many threads share a job, and how: `split`, unless `use_policy` sets another one.

Usually each thread runs the whole loop over time on its own examples (batch-parallel). With few examples, each thread
would read all weights for little work, so the threads share the units instead and synchronize in every step
(unit-parallel). The policy picks the faster way, or a single thread.
"""

import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rnnx._core.environment import decoded, variable

# Rough costs in nanoseconds, beside those in `costs`. A cache line moves between cores in 100 to 300 ns.
_NUMBERS = 4  # that elementwise kernels read or write per nanosecond
_SHARED_LINE = 250  # per cache line that two threads write to
_SHARED_LINES = 60  # per such line, many at once
# Per cache line that a thread reads after another one has written it, few of them or many in a row, and in that case
# before the first of them.
_FEW_READ, _MANY_READ, _FIRST_READ = 80, 10, 4000
_STEP = 250  # of a unit-parallel step, beside waiting: unequal speeds, and what threads cannot share
_LINE = 64  # bytes
_UNITS = 1.06  # times that of examples: micro-kernels of fewer rows, and in every step, all wait for the slowest thread
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
    limits = [limit.get(), _limit(_OMP_THREADS()), _limit(_NUMBA_THREADS())]
    if 1 in limits:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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


class Costs(NamedTuple):
    """What `costs` measures, for float32; the defaults suit processors with AVX-512.

    A product in the loop over time reads all weights in every step. With few rows, that takes longer than multiplying
    them.
    """

    products: int = 60  # multiplications per nanosecond, of many rows
    near_rows: int = 4  # whose time reading the weights from the L2 cache takes
    far_rows: int = 13  # whose time reading them from beyond it takes
    waiting: int = 500  # nanoseconds until threads know that the others have finished a step


@lru_cache(maxsize=8)
def measured(threads: int) -> Costs:
    """Return the costs on this machine, of waiting only if there are several threads."""
    from rnnx.engines.cpu.runtime.costs import costs  # with a compiler

    return costs(threads)


@lru_cache(maxsize=1)
def cache_bytes() -> int:
    """Return the size of a core's L2 cache, or a usual one if the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text("ascii").strip()
        return int(text.removesuffix("K")) << 10
    except (OSError, ValueError):
        return 1 << 20


@dataclass(frozen=True)
class Work:
    """The size of a job that loops over time."""

    n_steps: int
    m: int  # examples
    products: int  # multiplications in total
    numbers: int  # read or written by elementwise kernels in total
    shares: int  # parts the units can be divided into, 0 if they must stay together
    shared_lines: int  # cache lines that neighbouring examples share, per step, unless a row begins at one
    waits: int  # how often unit-parallel threads wait for each other in a step, for a recurrent product
    read: int = 0  # bytes per example and step that unit-parallel threads read from each other
    weights: int = 0  # of the products that are made in every step
    item: int = 4  # bytes of a number
    row: int = 0  # bytes of an example in every array; 0 if they differ, or the shares depend on lengths

    @cached_property
    def alone_ns(self) -> float:
        """Roughly estimated nanoseconds on one thread, without measurements."""
        return self.ns(Costs(), 1, False)

    def ns(self, given: Costs, threads: int, unit_parallel: bool) -> float:
        """Estimated nanoseconds on a number of threads."""
        if threads <= 1:
            return self._ns(given, self.m, 1)
        if unit_parallel:
            most = -(-self.shares // threads) / self.shares
            read = self.m * self.read / _LINE * (1 - most)
            reading = min(read * _FEW_READ, _FIRST_READ + read * _MANY_READ)
            waiting = self.waits * (given.waiting + _STEP)
            step = waiting + reading + self.m * self.shared_lines * _SHARED_LINES
            return _UNITS * self._ns(given, self.m, most) + self.n_steps * step + _HAND_OVER
        step = 0 if self._begin_at_lines(threads) else self.shared_lines * _SHARED_LINE
        return self._ns(given, -(-self.m // threads), 1) + self.n_steps * step + _HAND_OVER

    def _begin_at_lines(self, threads: int) -> bool:
        """Whether the examples of every slice, in every step, begin at a cache line."""
        begins = (self.m * (i + 1) // threads for i in range(threads))
        return self.row > 0 and all(j * self.row % _LINE == 0 for j in begins)

    def sections(self, threads: int, steps: int) -> int:
        """Return the number of sections for `steps` steps that threads share without waiting for each other.

        In each section, another thread may go on with the work of one that has lost its core.
        """
        if threads == 1:
            return 1
        return max(1, min(steps, _MOST_SECTIONS, int(self.alone_ns / threads / _SECTION)))

    def _ns(self, given: Costs, rows: int, units: float) -> float:
        """Estimated nanoseconds of a thread's part: some rows, and a share of the units."""
        item = self.item / 4
        weights = self.weights * units
        reading = given.far_rows if weights * self.item > cache_bytes() else given.near_rows
        repeated = self.n_steps * weights * math.hypot(rows, reading)  # reading and multiplying overlap
        others = (self.products / self.m - self.n_steps * self.weights) * units * rows
        return (repeated + others) / given.products * item + self.numbers / self.m * units * rows / _NUMBERS

    @cached_property
    def is_small(self) -> bool:
        """Whether it takes too little time to be worth counting threads."""
        return self.alone_ns <= 2 * (_HAND_OVER + _COUNTING)

    @cached_property
    def never_gains(self) -> bool:
        """Whether one thread is fastest, however many there are, by measured costs.

        Every number counts: only for some of them, all slices begin at cache lines.
        """
        given = measured(2)
        alone, parts = self.ns(given, 1, False), ((self.m, False), (self.shares, True))
        ways = ((n, unit) for most, unit in parts for n in range(2, min(most, MOST_THREADS) + 1))
        return all(self.ns(given, *way) >= alone for way in ways)


def split(work: Work) -> tuple[int, bool]:
    """Return the number of threads for a job, and whether it is unit-parallel."""
    if work.is_small or vars(work).get("never_gains"):  # if that is known, as costs are not measured for one thread
        return 1, False
    n = max_threads()
    return (1, False) if n == 1 or work.never_gains else _fastest(work, n, measured(n))


@lru_cache(maxsize=1024)
def _fastest(work: Work, n: int, given: Costs) -> tuple[int, bool]:
    choices = [(min(n, work.m), False), (min(n, work.shares), True)]
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
