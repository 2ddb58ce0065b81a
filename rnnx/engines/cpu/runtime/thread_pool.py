"""The thread pool.

Waking a thread takes too long for a job of a millisecond, so idle workers spin for up to two milliseconds before they
sleep. Jobs and waiting are compiled code that runs without the GIL. One caller at a time holds the pool; meanwhile, the
others run their jobs on their own threads. Results do not depend on the number of threads.
"""

import atexit
import ctypes
import os
import sys
import threading
from functools import lru_cache

import numpy as np

from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.mailbox import BARRIER, MAILBOX, WORKER
from rnnx.engines.cpu.runtime.thread_policy import MOST_THREADS, policy

_SPINS = 80_000  # checks for a job before sleeping: two milliseconds, longer than waking up takes


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
    ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(system_functions()["acquire"])(lock, 0)
    return int(lock)


_kept: list[np.ndarray] = []  # memory that workers or descriptors may read until the process ends


def _shared_record(dtype: np.dtype) -> tuple[np.ndarray, int]:
    """Allocate a zeroed record that is never freed; return it and its address."""
    record = np.zeros((), dtype)
    _kept.append(record)
    return record, int(record.ctypes.data)


class ThreadPool:
    """The threads, started on demand."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.functions = object_cache.loops("runtime.workers", "serve", "lead", "wake", "shut_down")
        self.threads: list[threading.Thread] = []
        self.closed = False
        self.mail, self.address = _shared_record(MAILBOX)
        self.workers, workers = _shared_record(np.dtype((WORKER, MOST_THREADS)))
        self.barrier = _shared_record(BARRIER)[1]
        system = system_functions()
        self.mail["acquire"], self.mail["release"] = system["acquire"], system["release"]
        self.mail["yield_function"] = system["yield"]
        self.mail["workers"], self.mail["spins"] = workers - self.address, _SPINS

    def acquire(self, n: int, nanoseconds: float) -> bool:
        """Reserve the pool for n threads and a job that takes one thread `nanoseconds`.

        Return False if the caller should run the job alone, because the pool is taken, no more threads can be started,
        or they sleep and the job is too short to wait for them. Sleeping threads are woken for the next job.
        """
        held = ready = False
        try:
            held = self.lock.acquire(blocking=False)
            ready = held and not self.closed and self._ready(n, nanoseconds < policy.get().short_ns)
        finally:
            if held and not ready:
                self.lock.release()
        return ready

    def _ready(self, n: int, short: bool) -> bool:
        started = len(self.threads)
        try:
            while len(self.threads) < n - 1:
                self._start()
        except (RuntimeError, MemoryError):  # the interpreter shuts down, or threads ran out
            return False
        if short and started < n - 1:
            return False
        if short and self.workers["asleep"][1:n].any():
            self.functions["wake"](0, n, self.address)
            return False
        return True

    def release(self) -> None:
        """End the reservation."""
        self.lock.release()

    def run(self, job: object_cache.Job, n: int, descriptor: int) -> None:
        """Run a job on n threads, including the calling one, which must hold the pool."""
        self.mail["job"], self.mail["descriptor"], self.mail["n_threads"] = job.address, descriptor, n
        self.functions["lead"](0, n, self.address)

    def _start(self) -> None:
        me = len(self.threads) + 1
        worker = self.workers[me]
        worker["number"] = worker["asleep"] = 0
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
            self.functions["shut_down"](0, len(self.threads) + 1, self.address)
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
