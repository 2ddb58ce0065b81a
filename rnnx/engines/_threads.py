"""Slices of a batch on a few threads: the one place that decides how many.

The examples of a batch are independent inside the loop over time, so each thread runs the whole loop on its
own examples; there is one fork and one join in a sequence. Results do not depend on the number of slices.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

# Waking a thread takes 0.1 to 0.2 ms, in which one core does some ten million products.
_PRODUCTS_PER_SLICE = 10_000_000

_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _forget_pool() -> None:
    """The child of a fork has the object but not the threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def max_threads() -> int:
    """The cores this process may use, or less if OMP_NUM_THREADS or NUMBA_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    return max(1, min(cores, *(int(limit) for limit in limits if limit.isdigit()), cores))


def run_slices(function: Callable[[int, int], None], m: int, products: int) -> None:
    """Call ``function(j0, j1)`` for slices that cover the examples 0 ... m - 1.

    Parameters
    ----------
    function : callable
        Must release the GIL to gain from it.
    m : int
        Number of examples.
    products : int
        Multiplications in the whole, which decide how many slices are worth a thread.
    """
    worth = min(m, products // _PRODUCTS_PER_SLICE)
    n_slices = min(max_threads(), worth) if worth > 1 else 1
    if n_slices == 1:
        function(0, m)
        return
    bounds = [m * i // n_slices for i in range(n_slices + 1)]
    others = [_submit(function, *bounds[i : i + 2]) for i in range(1, n_slices)]
    try:
        function(bounds[0], bounds[1])
    finally:
        for other in others:
            other.result()


def _submit(function: Callable[[int, int], None], j0: int, j1: int) -> "Future[None]":
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, max_threads() - 1), thread_name_prefix="rnnx")
        with contextlib.suppress(RuntimeError):
            return _pool.submit(function, j0, j1)
    # The interpreter is on its way out and starts no threads: do it here.
    done: Future[None] = Future()
    function(j0, j1)
    done.set_result(None)
    return done
