"""Jobs that several threads may share."""

from collections.abc import Callable
from functools import cached_property
from time import perf_counter_ns
from typing import Generic, NamedTuple, Protocol, TypeVar

from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.buffer_pool import give_back_workspace, take_workspace
from rnnx.engines.cpu.runtime.object_cache import Job
from rnnx.engines.cpu.runtime.thread_policy import choice
from rnnx.engines.cpu.runtime.thread_pool import Task
from rnnx.engines.cpu.runtime.work import Work

Given = TypeVar("Given")  # what a run is given
_Given = TypeVar("_Given", contravariant=True)
Fill = Callable[[int, int], int]  # fill(threads, place) -> address of the descriptor, given that of the workspace


class Divided(Protocol[_Given]):
    """A job divided among a number of threads."""

    def run_alone(self, given: _Given) -> None:
        """Run the job on the calling thread, if it was divided for one."""

    def run_shared(self, given: _Given) -> None:
        """Run the job on the thread pool."""


class Shareable(Generic[Given]):
    """A job that several threads share, or one runs if that has been faster; see `balance`."""

    def __init__(self, work: Work) -> None:
        self.work, self.balance = work, Balance(work.alone_ns)
        self._divided: dict[tuple[int, bool], Divided[Given]] = {}

    def divide(self, threads: int, unit_parallel: bool) -> Divided[Given]:
        """Divide the job."""
        raise NotImplementedError

    @cached_property
    def alone(self) -> Divided[Given]:
        """The job for one thread."""
        return self.divide(1, False)

    def way(self) -> tuple[int, bool]:
        """Return the number of threads to use, and whether they share the units."""
        return choice(self.work)

    def run(self, given: Given) -> None:
        """Run the job.

        The time of a shared run begins before the choice of threads, which takes as long as a short job: those that run
        alone from now on need none.
        """
        balance, start = self.balance, perf_counter_ns()
        way = self.way() if balance.expects_to_share else (0, False)
        if way[0] > 1 and balance.shares() and thread_pool.pool().start(way[0]):
            divided = self._divided.get(way)
            if divided is None:  # dividing it does not count: it is done once
                divided = self._divided[way] = self.divide(*way)
                start = perf_counter_ns()
            divided.run_shared(given)
            balance.add(True, perf_counter_ns() - start)
        elif way[0] == 1:
            self.alone.run_alone(given)
        else:
            alone = self.alone
            thread_pool.pool().rest()
            start = perf_counter_ns()
            alone.run_alone(given)
            balance.add(False, perf_counter_ns() - start)


class Calls(Shareable[Fill]):
    """A job without a loop over time, for calls of one size, each of which fills in a descriptor.

    Parameters
    ----------
    job : Job
    work : Work
    most : int
        Number of slices, at most.
    sections, size : function of the number of slices
        The number of sections, and bytes of workspace.
    """

    def __init__(
        self, job: Job, work: Work, most: int, sections: Callable[[int], int], size: Callable[[int], int]
    ) -> None:
        super().__init__(work)
        self._job, self._most, self._sections, self._size = job, most, sections, size

    def way(self) -> tuple[int, bool]:
        """See `Shareable`."""
        return min(super().way()[0], self._most), False

    def divide(self, threads: int, unit_parallel: bool) -> "_Divided":
        """See `Shareable`."""
        return _Divided(Task(self._job, threads, self._sections(threads)), threads, self._size(threads))


class _Divided(NamedTuple):
    """See `Divided`."""

    task: Task
    threads: int
    size: int  # bytes of workspace

    def run_alone(self, fill: Fill) -> None:
        self._run(self.task.run_alone, fill)

    def run_shared(self, fill: Fill) -> None:
        self._run(self.task.run_shared, fill)

    def _run(self, run: Callable[[int], None], fill: Fill) -> None:
        place = take_workspace(self.size)
        try:
            run(fill(self.threads, place.address))
        finally:
            give_back_workspace(place)
