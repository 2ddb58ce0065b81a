"""Locks between the processes of a session: what one of them compiles, the others wait for and load."""

import contextlib
import os
from pathlib import Path

from rnnx.engines.cpu.runtime import object_cache

try:
    import fcntl
except ImportError:  # Windows: each compiles its own
    fcntl = None

FOLDER = Path(os.environ["RNNX_CACHE_DIR"]).resolve() / "locks"  # some tests set the variable


@contextlib.contextmanager
def alone(name):
    """Hold the lock of this name."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / name, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def share_object_cache():
    """Compile for the CPU engine in one process only, and with pytest-xdist the jobs before the first test.

    Otherwise the first processes that tests start would all compile them. Two workers begin with different jobs.
    """
    load = object_cache._load

    def load_once(key, build):
        if key in object_cache._loaded:
            return load(key, build)
        with alone(key):
            return load(key, build)

    object_cache._load = load_once
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        object_cache.loops("loops.passes", *sorted(("forward", "backward"), reverse=worker.endswith("0")))
