"""The thread pool.

The caller works on its job itself, and runs what the workers have not begun, so a worker that sleeps or has lost its
core costs no time. `workers` has the protocol. Waking a thread takes as long as a short job, so idle workers look for
work for a while before they sleep; they yield to other threads meanwhile. Jobs and waiting are compiled code that runs
without the GIL. One caller at a time holds the pool; meanwhile, the others run their jobs on their own threads. Results
do not depend on who runs what.
"""

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache, partial
from time import monotonic, perf_counter_ns, sleep
from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.buffer_pool import address
from rnnx.engines.cpu.runtime.mailbox import MAILBOX, TASK, WORKER
from rnnx.engines.cpu.runtime.thread_policy import MOST_THREADS

_PATIENCE, _SPINNING = 30_000, 1_000_000  # nanoseconds without work before a thread sleeps, in and between jobs
_CHECKS = 256  # for work, of which the time is measured


@lru_cache(maxsize=1)
def system_functions() -> dict[str, int]:
    """Return the addresses of functions that acquire and release a lock, and that yield to other threads.

    Python's locks work on all systems, without the GIL, and own no file descriptor, unlike pipes: a descriptor that the
    program closes may belong to another file when a thread uses it.
    """
    if sys.platform == "win32":
        yield_function = ctypes.WinDLL("kernel32").SwitchToThread
    else:
        yield_function = ctypes.CDLL(None).sched_yield
    functions = {
        "acquire": ctypes.pythonapi.PyThread_acquire_lock,
        "release": ctypes.pythonapi.PyThread_release_lock,
        "yield": yield_function,
    }
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in functions.items()}


def _held_lock() -> int:
    """Return the address of a lock that is held. It is never freed."""
    lock = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))()
    if lock is None:
        raise MemoryError
    _python_lock("acquire", ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(lock, 0)
    return int(lock)


def _python_lock(name: str, *kind: Any) -> Any:
    """Return a function of Python's locks, of these types."""
    return ctypes.PYFUNCTYPE(*kind)(system_functions()[name])


class _Lock:
    """A lock that compiled code may take, too."""

    def __init__(self) -> None:
        self.address = _held_lock()
        self.release = partial(_python_lock("release", None, ctypes.c_void_p), self.address)
        self.release()
        self._acquire = partial(_python_lock("acquire", ctypes.c_int, ctypes.c_void_p, ctypes.c_int), self.address)

    def acquire(self, timeout: float = 0) -> bool:
        """Take the lock; return whether it was free, or became free in so many seconds."""
        end = monotonic() + timeout
        while not self._acquire(0):
            if monotonic() >= end:
                return False
            sleep(0.01)
        return True


_kept: list[np.ndarray] = []  # memory that workers or descriptors may read until the process ends


def _shared_record(dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Allocate a zeroed record that is never freed; return it and its address."""
    record = np.zeros((), dtype)
    _kept.append(record)
    return record, int(record.ctypes.data)


@lru_cache(maxsize=1)
def _functions() -> Mapping[str, object_cache.Job]:
    return object_cache.loops("runtime.workers", "serve", "lead", "alone", "spin", "shut_down")


class Task:
    """A job, and how it is divided into slices and sections.

    Sections `first` ... `sections` - 1 of each slice run one after the other. Those before `loop_end` from the second
    on, and those from `loop_end` on, only depend on earlier ones of the same slice; if `waits`, those before `loop_end`
    depend on all slices, as do section 1 and `loop_end` always.
    """

    def __init__(
        self, job: object_cache.Job, slices: int, sections: int, loop_end: int = 0, waits: int = 0, first: int = 0
    ) -> None:
        self._record = np.array((job.address, slices, first, sections, loop_end or sections, waits), TASK)
        self.address, self._alone = address(self._record), _functions()["alone"]

    def run_alone(self, descriptor: int) -> None:
        """Run the job on the calling thread."""
        self._alone(self.address, descriptor, 0)

    def run(self, descriptor: int, shared: bool, balance: Balance) -> None:
        """Run the job on the pool, which the caller must hold then, or on the calling thread; measure the time."""
        pool().rest(not shared)
        start = perf_counter_ns()
        if shared:
            pool().run(self, descriptor)
        else:
            self.run_alone(descriptor)
        balance.add(shared, perf_counter_ns() - start)


class ThreadPool:
    """The threads, started on demand."""

    def __init__(self) -> None:
        self.lock = _Lock()
        self.functions = _functions()
        self.threads: list[threading.Thread] = []
        self.closed = False
        self.mail, self.address = _shared_record(MAILBOX)
        self.workers, workers = _shared_record(np.dtype((WORKER, MOST_THREADS)))
        self.workers["lock"][0] = _held_lock()  # of the caller
        system = system_functions()
        self.mail["acquire"], self.mail["release"] = system["acquire"], system["release"]
        self.mail["yield_function"], self.mail["workers"] = system["yield"], workers - self.address
        self.mail["next"], self.mail["lock"] = 1, self.lock.address
        check = max(1, min(self._time_of_checks() for _ in range(5)) / _CHECKS)
        self._checks, self._rests = int(_SPINNING / check), False
        self.mail["patience"], self.mail["spins"] = _PATIENCE / check, self._checks

    def _time_of_checks(self) -> int:
        start = perf_counter_ns()
        self.functions["spin"](_CHECKS, 0, self.address)
        return perf_counter_ns() - start

    def start(self, n: int) -> bool:
        """Start threads, so that there are n with the caller; return False if that is impossible."""
        ready = self.acquire(n, timeout=60)
        if ready:
            self.release()
        return ready

    def acquire(self, n: int, timeout: float = 0) -> bool:
        """Reserve the pool for n threads; return False if it is taken, or if so many threads cannot be started."""
        held = ready = False
        try:
            held = self.lock.acquire(timeout)
            ready = held and not self.closed and self._ready(n)
        finally:
            if held and not ready:
                self.lock.release()
        return ready

    def _ready(self, n: int) -> bool:
        try:
            while len(self.threads) < n - 1:
                self._start()
        except (RuntimeError, MemoryError):  # the interpreter shuts down, or threads ran out
            return False
        return True

    def release(self) -> None:
        """End the reservation."""
        self.lock.release()

    def run(self, task: Task, descriptor: int) -> None:
        """Run a job on as many threads as it has slices; the calling one must hold the pool."""
        self.functions["lead"](task.address, descriptor, self.address)

    def rest(self, rests: bool) -> None:
        """Let workers sleep when they have no work, unless somebody holds the pool; or else, which only the holder may
        do, let them look for the next job for a while.

        A run alone is slower beside threads that look for work, and would seem to take as long as a shared one.
        """
        if rests is not self._rests and (not rests or self.lock.acquire()):
            self.mail["spins"], self._rests = 0 if rests else self._checks, rests
            if rests:
                self.lock.release()

    def _start(self) -> None:
        me = len(self.threads) + 1
        worker = self.workers[me]
        worker["asleep"] = 0
        arguments = (me, 0, self.address)
        thread = threading.Thread(target=self.functions["serve"], args=arguments, name=f"rnnx-{me}", daemon=True)
        if worker["lock"] == 0:
            worker["lock"] = _held_lock()
        self.threads.append(thread)  # first, because `start` may be interrupted after the thread has started
        try:
            thread.start()
        except RuntimeError:
            self.threads.remove(thread)
            raise

    def shut_down(self) -> None:
        """End the threads and start no others."""
        self.closed = True
        if self.lock.acquire(timeout=1):
            self.functions["shut_down"](len(self.threads) + 1, 0, self.address)
            for thread in self.threads:
                thread.join(1)
            self.threads.clear()
            self.lock.release()


_pool: ThreadPool | None = None
_starting = threading.Lock()


def pool() -> ThreadPool:
    """Return the thread pool of this process."""
    global _pool
    if _pool is None:
        with _starting:
            if _pool is None:
                _pool = ThreadPool()
                atexit.register(_pool.shut_down)
    return _pool


def _forget_pool() -> None:
    """Drop the pool in the child of a fork, which lacks its threads."""
    global _pool, _starting
    if _pool is not None:
        atexit.unregister(_pool.shut_down)
    _pool, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
