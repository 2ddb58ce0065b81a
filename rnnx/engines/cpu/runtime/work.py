"""How long a job takes on a number of threads, estimated from its size and from what `costs` measures."""

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from rnnx.engines.cpu.runtime.buffer_pool import LINE
from rnnx.engines.cpu.runtime.mailbox import MOST_THREADS

# Rough costs in nanoseconds, beside those in `costs`. A cache line moves between cores in 100 to 300 ns.
_NUMBERS = 4  # that elementwise kernels read or write per nanosecond
_SHARED_LINE = 250  # per cache line that two threads write to
_SHARED_LINES = 60  # per such line, many at once
# Per cache line that a thread reads after another one has written it, few of them or many in a row, and in that case
# before the first of them.
_FEW_READ, _MANY_READ, _FIRST_READ = 80, 10, 4000
_STEP = 250  # of a unit-parallel step, beside waiting: unequal speeds, and what threads cannot share
_UNITS = 1.06  # times that of examples: micro-kernels of fewer rows, and in every step, all wait for the slowest thread
_HAND_OVER = 5_000  # of a job to awake threads
_SECTION = 20_000  # of a job: claiming one takes a hundredth
_MOST_SECTIONS = 64
# If a thread has two slices: their rows and sections, at least, and their number, at most, as whoever claims a section
# looks at all of them; and the most that two may take, in times that of one.
_LEAST_ROWS, _LEAST_SECTIONS, _MOST_SLICES = 8, 8, 32
_MORE = 1.1
_COUNTING = 10_000  # to find out how many threads are allowed


class Costs(NamedTuple):
    """What `costs` measures, for float32; the defaults suit processors with AVX-512.

    A product in the loop over time reads all weights in every step. With few rows, that takes longer than multiplying
    them.
    """

    products: int = 60  # multiplications per nanosecond, of many rows
    near_rows: int = 4  # whose time reading the weights from the L2 cache takes
    far_rows: int = 13  # whose time reading them from beyond it takes
    waiting: int = 500  # nanoseconds until threads know that the others have finished a step


@lru_cache(maxsize=1)
def cache_bytes() -> int:
    """Return the size of a core's L2 cache, or a usual one if the system does not tell."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text("ascii").strip()
        return int(text.removesuffix("K")) << 10
    except (OSError, ValueError):
        return 1 << 20


@dataclass(eq=False)
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
    gains: bool | None = field(default=None, init=False)  # whether some number of threads is faster than one, if known
    fastest: dict[int, tuple[int, bool]] = field(default_factory=dict, init=False)  # by number of threads, where known

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
            read = self.m * self.read / LINE * (1 - most)
            reading = min(read * _FEW_READ, _FIRST_READ + read * _MANY_READ)
            waiting = self.waits * (given.waiting + _STEP)
            step = waiting + reading + self.m * self.shared_lines * _SHARED_LINES
            return _UNITS * self._ns(given, self.m, most) + self.n_steps * step + _HAND_OVER
        step = 0 if self._begin_at_lines(threads) else self.shared_lines * _SHARED_LINE
        return self._ns(given, -(-self.m // threads), 1) + self.n_steps * step + _HAND_OVER

    def _begin_at_lines(self, threads: int) -> bool:
        """Whether the examples of every slice, in every step, begin at a cache line."""
        begins = (self.m * (i + 1) // threads for i in range(threads))
        return self.row > 0 and all(j * self.row % LINE == 0 for j in begins)

    def sections(self, threads: int, steps: int) -> int:
        """Return the number of sections for `steps` steps that threads share without waiting for each other.

        In each section, another thread may go on with the work of one that has lost its core.
        """
        if threads == 1:
            return 1
        return max(1, min(steps, _MOST_SECTIONS, int(self.alone_ns / threads / _SECTION)))

    def slices_per_thread(self, threads: int, steps: int) -> int:
        """Return how many slices of examples each of several threads has: two if they take hardly longer than one.

        Threads on faster cores then take over sections of slower ones until the end, as there are always slices that
        nobody runs.
        """
        rows, slices = self.m / threads, 2 * threads
        if threads == 1 or rows < 2 * _LEAST_ROWS or slices > _MOST_SLICES:
            return 1
        if self.sections(slices, steps) < _LEAST_SECTIONS:
            return 1
        return 2 if 2 * self._ns(Costs(), rows / 2, 1) <= _MORE * self._ns(Costs(), rows, 1) else 1

    def _ns(self, given: Costs, rows: float, units: float) -> float:
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

    def may_gain(self, given: Costs) -> bool:
        """Return whether some number of threads is faster than one, and note it in `gains`.

        Every number counts: only for some of them, all slices begin at cache lines.
        """
        if self.gains is None:
            alone, parts = self.ns(given, 1, False), ((self.m, False), (self.shares, True))
            ways = ((n, unit) for most, unit in parts for n in range(2, min(most, MOST_THREADS) + 1))
            self.gains = any(self.ns(given, *way) < alone for way in ways)
        return self.gains
