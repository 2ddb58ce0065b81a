"""The thread pool.

The caller works on its job itself, and runs what the workers have not begun, so a worker that sleeps or has lost its
core costs no time. `workers` has the protocol. Waking a thread takes as long as a short job, so idle workers look for
work for a while before they sleep; they yield to other threads meanwhile. Jobs and waiting are compiled code that runs
without the GIL. One caller at a time uses the workers; meanwhile, the others run their jobs on their own threads. It
takes and gives back the workers in compiled code, so no interrupt of Python's leaves them taken. Results do not depend
on who runs what.
"""

import atexit
import ctypes
import os
import sys
import threading
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter_ns

import numpy as np

from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import address, immortal
from rnnx.engines.cpu.runtime.mailbox import MAILBOX, MOST_THREADS, TASK, WORKER

# Nanoseconds without work before a thread sleeps, in and between jobs. A virtual machine may give the core of a thread
# that sleeps to others, and take a tenth of a millisecond to get it back.
_PATIENCE, _SPINNING = 200_000, 1_000_000
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


def _new_lock() -> int:
    """Return the address of a lock that is free. It is never deallocated."""
    lock = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))()
    if lock is None:
        raise MemoryError
    return int(lock)


def _held_lock() -> int:
    """Return the address of a lock that is held. It is never deallocated."""
    lock = _new_lock()
    acquire_kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    acquire_kind(system_functions()["acquire"])(lock, 0)
    return lock


def _shared_record(dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Allocate a zeroed record that is never freed; return it and its address."""
    record = immortal(np.zeros((), dtype))
    return record, int(record.ctypes.data)


@lru_cache(maxsize=1)
def _functions() -> Mapping[str, object_cache.Job]:
    return object_cache.loops("runtime.workers", "serve", "share_job", "alone", "spin", "shut_down")


class Task:
    """A job, and how it is divided into slices, `per_thread` for each thread, and sections.

    Sections `first` ... `sections` - 1 of each slice run one after the other. Those before `loop_end` from the second
    on, and those from `loop_end` on, only depend on earlier ones of the same slice; if `waits`, those before `loop_end`
    depend on all slices, as do section 1 and `loop_end` always.
    """

    def __init__(
        self,
        job: object_cache.Job,
        slices: int,
        sections: int,
        loop_end: int = 0,
        waits: int = 0,
        first: int = 0,
        per_thread: int = 1,
    ) -> None:
        self._record = np.array((job.address, slices, per_thread, first, sections, loop_end or sections, waits), TASK)
        self.address, self._alone = address(self._record), _functions()["alone"]

    def run_alone(self, descriptor: int) -> None:
        """Run the job on the calling thread, as a single slice."""
        self._alone(self.address, descriptor, 0)

    def run_shared(self, descriptor: int) -> None:
        """Run the job on its threads, or on the calling one while another one uses the pool."""
        used = pool()
        used.functions["share_job"](self.address, descriptor, used.address)


class ThreadPool:
    """The threads, started on demand."""

    def __init__(self) -> None:
        self.functions = _functions()
        self.threads: dict[int, threading.Thread] = {}
        self.closed = False
        self.mail, self.address = _shared_record(MAILBOX)
        self.workers, workers = _shared_record(np.dtype((WORKER, MOST_THREADS)))
        self.workers["lock"][0] = _held_lock()  # of the caller
        system = system_functions()
        self.mail["acquire"], self.mail["release"] = system["acquire"], system["release"]
        self.mail["yield_function"], self.mail["workers"] = system["yield"], workers - self.address
        self.mail["next"], self.mail["lock"] = 1, _new_lock()
        check = max(1, min(self._time_of_checks() for _ in range(5)) / _CHECKS)
        self.mail["patience"], self.mail["spins"] = _PATIENCE / check, _SPINNING / check

    def _time_of_checks(self) -> int:
        start = perf_counter_ns()
        self.functions["spin"](_CHECKS, 0, self.address)
        return perf_counter_ns() - start

    def start(self, n: int) -> bool:
        """Start threads, so that there are n with the caller; return False if that is impossible."""
        if self.closed:
            return False
        if len(self.threads) >= n - 1:
            return True
        try:
            for me in range(1, n):
                self._start(me)
        except (RuntimeError, MemoryError):  # the interpreter shuts down, or threads ran out
            return False
        return True

    def rest(self) -> None:
        """Let workers sleep when they have no work, until the next shared job.

        A run alone is slower beside threads that look for work, and would seem to take as long as a shared one.
        """
        self.mail["rests"] = 1

    def _start(self, me: int) -> None:
        """Start worker `me`, unless it has been started."""
        arguments = (me, 0, self.address)
        thread = threading.Thread(target=self.functions["serve"], args=arguments, name=f"rnnx-{me}", daemon=True)
        # In the table first, because `start` may be interrupted after the thread has started.
        if self.threads.setdefault(me, thread) is not thread:
            return
        try:
            if self.workers["lock"][me] == 0:
                self.workers["lock"][me] = _held_lock()
            thread.start()
        except (RuntimeError, MemoryError):
            del self.threads[me]
            raise

    def shut_down(self) -> None:
        """End the threads and start no others. The caller of a job that runs meanwhile finishes it."""
        self.closed = True
        self.functions["shut_down"](max(self.threads, default=0) + 1, 0, self.address)
        for thread in list(self.threads.values()):
            if thread.is_alive():
                thread.join(1)
        self.threads.clear()


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
