"""The thread pool, and the policy that decides how many threads share a job, and how.

Waking a thread takes too long for a job of a millisecond, so idle workers spin for up to two milliseconds before they
sleep. Jobs and waiting are compiled code without the GIL. One caller at a time has the pool; meanwhile others run their
jobs on their own thread. Results do not depend on the number of threads.

The policy is `split` unless `use_policy` sets another one. Usually each thread runs the whole loop over time on its own
examples (batch-parallel). With few examples, each thread would read all weights for little work, so the threads share
the units instead and synchronize in every step (unit-parallel). The policy takes the cheaper way, or a single thread.
"""

import atexit
import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.mailbox import BARRIER, MAILBOX, WORKER

# Rough costs in nanoseconds, measured on the machine of docs/performance.md. There, a cache line moves between cores in
# 100 to 300 ns.
_PRODUCTS = 40  # multiplications per nanosecond
_LEAST_ROWS = 1.5  # minimum cost, in rows: loading the weights takes as long
_WAITING = 2000  # for the barrier, per unit-parallel step
_SHARED_LINE = 250  # per cache line that two threads write to
_HAND_OVER = 5_000  # of a job to awake threads
_WAKING_UP = 500_000  # jobs shorter than this do not wait for sleeping threads

_MOST_THREADS = 256
_SPINS = 80_000  # checks for a job before sleeping: two milliseconds, longer than _WAKING_UP


@lru_cache(maxsize=1)
def system_functions() -> dict[str, int]:
    """Return the addresses of the C library's read, write and yield functions."""
    if sys.platform == "win32":
        runtime, kernel = ctypes.CDLL("ucrtbase"), ctypes.WinDLL("kernel32")
        functions = {"read": runtime._read, "write": runtime._write, "yield": kernel.SwitchToThread}
    else:
        library = ctypes.CDLL(None)
        functions = {"read": library.read, "write": library.write, "yield": library.sched_yield}
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in functions.items()}


# --- policy -------------------------------------------------------------------------------------------------------


def max_threads() -> int:
    """Return the number of usable cores, limited by OMP_NUM_THREADS, NUMBA_NUM_THREADS and threadpoolctl."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # OMP_NUM_THREADS may be a list; the first number is for the outermost level.
    given = (os.environ.get(name, "").split(",")[0].strip() for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    limits = [int(limit) for limit in given if limit.isdigit()]
    return max(1, min(cores, *limits, _limit_of_threadpoolctl(cores), _MOST_THREADS))


def _limit_of_threadpoolctl(cores: int) -> int:
    """Return the number of threads of NumPy's BLAS, which threadpoolctl limits."""
    if "threadpoolctl" not in sys.modules:
        return cores
    return min((blas.get_num_threads() or cores for blas in _blas_controllers()), default=cores)


@lru_cache(maxsize=1)
def _blas_controllers() -> list[Any]:
    controllers = sys.modules["threadpoolctl"].ThreadpoolController().lib_controllers
    return [c for c in controllers if c.user_api == "blas"]


@dataclass(frozen=True)
class Work:
    """The size of a job that loops over time."""

    n_steps: int
    m: int  # examples
    products: int  # multiplications in total
    shares: int  # parts the units can be divided into
    shared_lines: int  # cache lines that neighbouring examples share, per step

    @cached_property
    def alone_ns(self) -> float:
        """Estimated nanoseconds on one thread."""
        return self.products / _PRODUCTS * max(self.m, _LEAST_ROWS) / self.m


def split(work: Work) -> tuple[int, bool]:
    """Return the number of threads for a job, and whether it is unit-parallel."""
    best, choice = work.alone_ns, (1, False)
    if best <= 2 * _HAND_OVER:
        return choice
    n, m = max_threads(), work.m
    example = work.products / (work.n_steps * m) / _PRODUCTS
    for threads, unit_parallel in ((min(n, m), False), (min(n, work.shares), True)):
        if threads > 1:
            rows = max(m, _LEAST_ROWS) / threads if unit_parallel else max(-(-m // threads), _LEAST_ROWS)
            lines = work.shared_lines * _SHARED_LINE
            cost = _WAITING + m * lines if unit_parallel else lines
            time = work.n_steps * (example * rows + cost) + _HAND_OVER
            if time < best:
                best, choice = time, (threads, unit_parallel)
    return choice


@dataclass(frozen=True)
class Policy:
    """How jobs are shared among threads."""

    split: Callable[[Work], tuple[int, bool]] = split
    short_ns: float = _WAKING_UP  # shorter jobs do not wait for sleeping threads


policy: ContextVar[Policy] = ContextVar("rnnx_thread_policy", default=Policy())  # noqa: B039


@contextlib.contextmanager
def use_policy(split: Callable[[Work], tuple[int, bool]], short_ns: float = 0) -> Iterator[None]:
    """Set the policy of this context. By default, every job waits for sleeping threads."""
    token = policy.set(Policy(split, short_ns))
    try:
        yield
    finally:
        policy.reset(token)


# --- threads ------------------------------------------------------------------------------------------------------


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
        self.workers, workers = _shared_record(np.dtype((WORKER, _MOST_THREADS)))
        self.barrier = _shared_record(BARRIER)[1]
        system = system_functions()
        self.mail["read"], self.mail["write"], self.mail["yield_function"] = map(system.get, ("read", "write", "yield"))
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
        except (RuntimeError, OSError):  # the interpreter shuts down, or threads or pipes ran out
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
        """Run a job on n threads, including the calling one. For n > 1, the caller must hold the pool."""
        if n == 1:
            job(0, 1, descriptor)
            return
        self.mail["job"], self.mail["descriptor"], self.mail["n_threads"] = job.address, descriptor, n
        self.functions["lead"](0, n, self.address)

    def _start(self) -> None:
        me = len(self.threads) + 1
        worker = self.workers[me]
        worker["number"] = worker["asleep"] = 0
        arguments = (me, 0, self.address)
        thread = threading.Thread(target=self.functions["serve"], args=arguments, name=f"rnnx-{me}", daemon=True)
        if worker["write_end"] == 0:
            worker["read_end"], worker["write_end"] = os.pipe()
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
