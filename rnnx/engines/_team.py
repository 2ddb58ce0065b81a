"""A few threads that do a job together: the one place that decides how many, and how they share it.

A job of a millisecond leaves no time to wake a thread up, so a worker that is done looks for the next job for a
fraction of a millisecond before it goes to sleep. Jobs and waiting are compiled code that runs without Python's
lock. One caller at a time has the team; a second one does its job alone. Results do not depend on the number of
threads.

The rule: examples of a batch are independent, so as a rule each thread runs the whole loop over time on its own
examples ("sliced"). With few examples each thread would read all weights for next to nothing; then the threads share
the units and wait for each other in every step ("wide"). What one thread does in a few microseconds it does alone.
"""

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.engines import _native

# Below so many multiplications in a job, and per thread in it, a hand-over is not worth it (30 microseconds).
_PRODUCTS_OF_A_THREAD = 1_000_000
# Below so many multiplications in a step, waiting for each other takes longer than what is shared.
_PRODUCTS_OF_A_WIDE_STEP = 30_000
# Examples that a thread should have for the weights it reads; and weights that fit beside them in a core's cache.
_EXAMPLES_OF_A_SLICE = 4

# Places in the mail (integers), and in a worker's slot of it: what the other threads look at stands lines apart.
JOB, PLAN, N_THREADS, READ, WRITE, SYSTEM_YIELD, SPINS = range(7)
DONE = 8
BARRIER = 16  # see _jit_loops.barrier
SLOT = 32
NUMBER, ASLEEP, READ_END, WRITE_END = 0, 8, 16, 17
_MOST_THREADS = 16  # or the number of cores, if that is more
_SPINS = 20_000  # looks for a job before going to sleep


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
    limits = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    limit = min(cores, *(int(limit) for limit in limits if limit.isdigit()), cores, _limit_of_threadpoolctl(cores))
    return max(1, limit)


def _limit_of_threadpoolctl(cores: int) -> int:
    """What the BLAS of NumPy may use, which is how threadpoolctl limits; without it nothing has been limited."""
    if "threadpoolctl" not in sys.modules:
        return cores
    return min((blas.get_num_threads() or cores for blas in _blas_controllers()), default=cores)


@lru_cache(maxsize=1)
def _blas_controllers() -> list[Any]:
    controllers = sys.modules["threadpoolctl"].ThreadpoolController().lib_controllers
    return [c for c in controllers if c.user_api == "blas"]


def split(n_steps: int, m: int, products: int, shares: int) -> tuple[int, bool]:
    """How many threads do a loop over time, and whether they share its units instead of its examples.

    Parameters
    ----------
    n_steps, m : int
    products : int
        Multiplications of the whole job.
    shares : int
        Parts into which the units can be divided.
    """
    n = products // _PRODUCTS_OF_A_THREAD
    if n > 1:
        n = min(n, max_threads())
    if n <= 1:
        return 1, False
    if m >= n * _EXAMPLES_OF_A_SLICE:
        return n, False
    if products // n_steps >= _PRODUCTS_OF_A_WIDE_STEP and min(n, shares) > 1:
        return min(n, shares), True
    return min(n, m), False


class Team:
    """The threads, started when they are first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.functions = _native.loops("_team_loops", "serve", "lead", "dismiss")
        self.workers: list[threading.Thread] = []
        # Never given back: a worker may look at it until the process ends.
        self.mail = np.zeros(SLOT * max(_MOST_THREADS, os.cpu_count() or 1), np.int64)
        self.address = int(self.mail.ctypes.data)
        self.barrier = self.address + 8 * BARRIER
        system = system_functions()
        self.mail[[READ, WRITE, SYSTEM_YIELD]] = system["read"], system["write"], system["yield"]
        self.mail[SPINS] = _SPINS

    def hold(self, n: int) -> bool:
        """Take the team for a job with n threads; False if somebody else has it, or there are no more threads."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            while len(self.workers) < n - 1:
                self._hire()
        except RuntimeError:  # the interpreter is on its way out and starts no threads
            self.lock.release()
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        self.lock.release()

    def run(self, job: _native.Job, n: int, plan: int) -> None:
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
        worker.start()
        self.workers.append(worker)

    def dismiss(self) -> None:
        """Let the threads end."""
        with self.lock:
            self.functions["dismiss"](0, len(self.workers) + 1, self.address)
            for worker in self.workers:
                worker.join(1)
            self.workers.clear()


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
    with contextlib.suppress(AttributeError):
        os.register_at_fork(after_in_child=_forget_team)
