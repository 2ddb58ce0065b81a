"""Functions of different libraries timed in turn, each in a process of its own. Not run by asv.

Other guests of a machine come and go within seconds, so the turns are short: a slow phase then affects all sides alike.
A process waits, asleep, while the others have their turns.
"""

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rnnx.compare import process

_SECONDS = 0.2  # of a turn
_CODE = "from turns import serve; serve()"


def medians_in_turn(calls, rounds, threads=None):
    """Return the median milliseconds of each turn, by label.

    `calls` has a tuple by label, ("module:function", *arguments): the function returns what is to be timed, a function
    without arguments. The first turn, in which code is compiled and memory is allocated, does not count. `threads`
    limits the numerical libraries.
    """
    with contextlib.ExitStack() as stack:
        sides = {label: stack.enter_context(_Side(*call, threads=threads)) for label, call in calls.items()}
        turns = {label: side.median_ms for label, side in sides.items()}
        return {label: found[1:] for label, found in process.in_turn(turns, rounds + 1).items()}


class _Side:
    """The process of one side."""

    def __init__(self, target, *arguments, threads):
        self.name = f"{target}{arguments}"
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE],
            env=process.environment(threads, [Path(__file__).parent]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self._ask((target, arguments))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def _ask(self, request):
        with contextlib.suppress(BrokenPipeError):  # the answer will say why
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()

    def median_ms(self):
        """Return the median milliseconds of a turn."""
        self._ask(_SECONDS)
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name}:\n{self.errors.read().decode(errors='replace')}") from None


def serve():
    """Run in the process of a side: make the function, and time it whenever asked."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    target, arguments = pickle.load(sys.stdin.buffer)
    module, function = target.split(":")
    f = getattr(importlib.import_module(module), function)(*arguments)
    with contextlib.suppress(EOFError):
        while seconds := pickle.load(sys.stdin.buffer):
            pickle.dump(_turn(f, seconds), answers)
            answers.flush()


def _turn(f, seconds):
    """Return the median milliseconds of a call, after one that does not count."""
    f()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))
