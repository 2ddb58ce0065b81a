"""A few threads that do a job together: the one place that decides how many, and how they share it.

A job of a millisecond leaves no time to wake a thread up, so a worker that is done looks for the next job for a
fraction of a millisecond before it goes to sleep. Jobs and waiting are compiled code that runs without Python's
lock. One caller at a time has the team; a second one does its job alone. Results do not depend on the number of
threads.

The rule, in `split`: examples of a batch are independent, so as a rule each thread runs the whole loop over time on
its own examples ("sliced"). With few examples each thread would read all weights for next to nothing; then the threads
share the units and wait for each other in every step ("wide"). Both cost what two threads writing to the same lines of
the cache costs, and are compared with one thread alone.
"""

import atexit
import ctypes
import os
import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime import object_cache

# What things take, in nanoseconds, measured on the machine of docs/performance.md: roughly right is enough. A line of
# the cache goes from core to core in 100 to 300 ns there, and the rule looks at the bad days.
_PRODUCTS = 40  # multiplications in a nanosecond
_LEAST_ROWS = 1.5  # one example takes as long as so many should: the weights come from the cache no faster
_WAITING = 2000  # for each other, in a step of the wide path
_SHARED_LINE = 250  # a line of the cache that two threads write to
_HAND_OVER = 5_000  # a job to threads that are awake
_WAKING_UP = 500_000  # a shorter job does not wait for threads that sleep

# Places in the mail (integers), and in a worker's slot of it: what the other threads look at stands lines apart.
JOB, PLAN, N_THREADS, READ, WRITE, SYSTEM_YIELD, SPINS = range(7)
DONE = 8
BARRIER = 16  # see loops.packing.barrier
SLOT = 32
NUMBER, ASLEEP, READ_END, WRITE_END = 0, 8, 16, 17
_MOST_THREADS = 256
_SPINS = 80_000  # looks for a job before going to sleep: two milliseconds, and more than _WAKING_UP


@lru_cache(maxsize=1)
def system_functions() -> dict[str, int]:
    """Addresses of read, write and yield of the C library."""
    if sys.platform == "win32":
        runtime, kernel = ctypes.CDLL("ucrtbase"), ctypes.WinDLL("kernel32")
        functions = {"read": runtime._read, "write": runtime._write, "yield": kernel.SwitchToThread}
    else:
        library = ctypes.CDLL(None)
        functions = {"read": library.read, "write": library.write, "yield": library.sched_yield}
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in functions.items()}


def max_threads() -> int:
    """The cores this process may use, or less if OMP_NUM_THREADS, NUMBA_NUM_THREADS or threadpoolctl says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # OMP_NUM_THREADS may be a list, of which the first is for the outermost loop.
    given = (os.environ.get(name, "").split(",")[0].strip() for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    limits = [int(limit) for limit in given if limit.isdigit()]
    return max(1, min(cores, *limits, _limit_of_threadpoolctl(cores), _MOST_THREADS))


def _limit_of_threadpoolctl(cores: int) -> int:
    """What the BLAS of NumPy may use, which is how threadpoolctl limits; without it nothing has been limited."""
    if "threadpoolctl" not in sys.modules:
        return cores
    return min((blas.get_num_threads() or cores for blas in _blas_controllers()), default=cores)


@lru_cache(maxsize=1)
def _blas_controllers() -> list[Any]:
    controllers = sys.modules["threadpoolctl"].ThreadpoolController().lib_controllers
    return [c for c in controllers if c.user_api == "blas"]


def split(n_steps: int, m: int, products: int, shares: int, shared: int) -> tuple[int, bool]:
    """How many threads do a loop over time, and whether they share its units instead of its examples.

    Parameters
    ----------
    n_steps, m : int
    products : int
        Multiplications of the whole job.
    shares : int
        Parts into which the units can be divided.
    shared : int
        Arrays of an example and step whose ends share lines of the cache with their neighbours.
    """
    best, choice = alone_ns(m, products), (1, False)
    n = max_threads() if best > 2 * _HAND_OVER else 1
    example = products / (n_steps * m) / _PRODUCTS
    for threads, wide in ((min(n, m), False), (min(n, shares), True)):
        if threads > 1:
            rows = max(m, _LEAST_ROWS) / threads if wide else max(-(-m // threads), _LEAST_ROWS)
            cost = _WAITING + shared * m * _SHARED_LINE if wide else shared * _SHARED_LINE
            time = n_steps * (example * rows + cost) + _HAND_OVER
            if time < best:
                best, choice = time, (threads, wide)
    return choice


def alone_ns(m: int, products: int) -> float:
    """Nanoseconds that one thread needs for so many multiplications, roughly."""
    return products / _PRODUCTS * max(m, _LEAST_ROWS) / m


_mails: list[np.ndarray] = []  # never given back: a worker, or a plan, may look at it until the process ends


class Team:
    """The threads, started when they are first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.functions = object_cache.loops("runtime.workers", "serve", "lead", "wake", "dismiss")
        self.workers: list[threading.Thread] = []
        self.closed = False
        self.mail = np.zeros(SLOT * _MOST_THREADS, np.int64)
        _mails.append(self.mail)
        self.address = int(self.mail.ctypes.data)
        self.barrier = self.address + 8 * BARRIER
        system = system_functions()
        self.mail[[READ, WRITE, SYSTEM_YIELD]] = system["read"], system["write"], system["yield"]
        self.mail[SPINS] = _SPINS

    def hold(self, n: int, nanoseconds: float) -> bool:
        """Take the team for a job of n threads that takes one of them so long.

        False, and the job is to be done alone, if somebody else has the team, if there are no more threads, or if they
        sleep and the job is done before they are awake; the next one has them then.
        """
        held = ready = False
        try:
            held = self.lock.acquire(blocking=False)
            ready = held and not self.closed and self._ready(n, nanoseconds < _WAKING_UP)
        finally:
            if held and not ready:
                self.lock.release()
        return ready

    def _ready(self, n: int, short: bool) -> bool:
        hired = len(self.workers)
        try:
            while len(self.workers) < n - 1:
                self._hire()
        except (RuntimeError, OSError):  # the interpreter is on its way out, or there are no more threads or pipes
            return False
        if short and hired < n - 1:
            return False
        if short and any(self.mail[SLOT * i + ASLEEP] for i in range(1, n)):
            self.functions["wake"](0, n, self.address)
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        self.lock.release()

    def run(self, job: object_cache.Job, n: int, plan: int) -> None:
        """Do a job with n threads, this one among them. For n > 1 the caller holds the team."""
        if n == 1:
            job(0, 1, plan)
            return
        self.mail[JOB], self.mail[PLAN], self.mail[N_THREADS] = job.address, plan, n
        self.functions["lead"](0, n, self.address)

    def _hire(self) -> None:
        me = len(self.workers) + 1
        slot = me * SLOT
        self.mail[slot + NUMBER] = self.mail[slot + ASLEEP] = 0
        arguments = (me, 0, self.address)
        worker = threading.Thread(target=self.functions["serve"], args=arguments, name=f"rnnx-{me}", daemon=True)
        if self.mail[slot + WRITE_END] == 0:
            self.mail[slot + READ_END], self.mail[slot + WRITE_END] = os.pipe()
        self.workers.append(worker)  # first: `start` may be interrupted when the thread is running already
        try:
            worker.start()
        except RuntimeError:
            self.workers.remove(worker)
            raise

    def dismiss(self) -> None:
        """Let the threads end. There are none after that."""
        self.closed = True
        if self.lock.acquire(timeout=1):
            self.functions["dismiss"](0, len(self.workers) + 1, self.address)
            for worker in self.workers:
                worker.join(1)
            self.workers.clear()
            self.lock.release()


_team: Team | None = None
_hiring = threading.Lock()


def team() -> Team:
    """The team of this process."""
    global _team
    if _team is None:
        with _hiring:
            if _team is None:
                _team = Team()
                atexit.register(_team.dismiss)
    return _team


def _forget_team() -> None:
    """The child of a fork has the object but not the threads."""
    global _team, _hiring
    if _team is not None:
        atexit.unregister(_team.dismiss)
    _team, _hiring = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)
