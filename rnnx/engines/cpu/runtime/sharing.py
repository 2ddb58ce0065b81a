"""Jobs without a loop over time, shared among threads."""

from collections.abc import Callable

from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.buffer_pool import give_back_workspace, take_workspace
from rnnx.engines.cpu.runtime.object_cache import Job
from rnnx.engines.cpu.runtime.thread_policy import Work, choice
from rnnx.engines.cpu.runtime.thread_pool import Task

Fill = Callable[[int, int], int]  # fill(threads, place) -> address of the descriptor, given that of the workspace


class Shared:
    """A job for calls of one size.

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
        self._job, self._work, self._most, self._sections, self._size = job, work, most, sections, size
        self._balance = Balance(work.alone_ns)
        self._tasks: dict[int, Task] = {}

    def run(self, fill: Fill) -> None:
        """Run the job, on one thread if several have been slower."""
        threads = min(choice(self._work)[0], self._most)
        if threads > 1 and self._balance.shares() and thread_pool.pool().acquire(threads):
            try:
                self._run(threads, fill, True)
            finally:
                thread_pool.pool().release()
        else:
            self._run(1, fill, threads > 1)

    def _run(self, threads: int, fill: Fill, measured: bool) -> None:
        task = self._tasks.get(threads)
        if task is None:
            task = self._tasks[threads] = Task(self._job, threads, self._sections(threads))
        place = take_workspace(self._size(threads))
        try:
            descriptor = fill(threads, place.address)
            if measured:
                task.run(descriptor, threads > 1, self._balance)
            else:
                task.run_alone(descriptor)
        finally:
            give_back_workspace(place)
