"""The CPU engine's thread pool, as other threads use it."""

import contextlib
import ctypes
import time

from rnnx.engines.cpu.runtime import thread_pool


@contextlib.contextmanager
def used_by_others():
    """As if another thread ran a job on the pool."""
    lock, functions = int(thread_pool.pool().mail["lock"]), thread_pool.system_functions()
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(functions["acquire"])(lock, 0)
    try:
        yield
    finally:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(functions["release"])(lock)


def wait_for_sleep(n):
    """Wait until workers 1 ... n sleep, without taking their time."""
    until = time.monotonic() + 10
    while not thread_pool.pool().workers["asleep"][1 : n + 1].all():
        assert time.monotonic() < until
        time.sleep(0.001)
