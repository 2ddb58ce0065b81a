"""Function calls in a fresh Python process: pickled arguments in, a pickled result out."""

import importlib
import operator
import os
import pickle
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rnnx

K = TypeVar("K")
T = TypeVar("T")

# No log messages, no GPU, and Keras on TensorFlow whatever its configuration file says.
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB")  # prefixes of the variables that the libraries read
_CODE = "from rnnx.compare.process import child; child()"
_LINES = 12  # lines of stderr that the message about a failed process quotes


def call(
    target: str, *arguments: Any, label: str = "", threads: int | None = None, folders: Sequence[str | Path] = ()
) -> tuple[Any, float]:
    """Call the function "module:name" in a new process; return its result and the seconds until its module is imported.

    The process uses this rnnx and the CPU, and imports nothing from the current folder; `folders` are additional import
    folders. `threads` limits the numerical libraries, and `label` names the process in error messages.

    Raises
    ------
    RuntimeError
        If the process fails. The message ends with the last lines of its stderr.
    """
    with tempfile.TemporaryDirectory(prefix="rnnx-") as folder:
        request, result = Path(folder) / "request.pickle", Path(folder) / "result.pickle"
        request.write_bytes(pickle.dumps(arguments))
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CODE, target, str(request), str(result), repr(time.time())],
            env=environment(threads, folders),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 0:
            value, start_seconds = pickle.loads(result.read_bytes())
            return value, start_seconds
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
    stderr = "\n".join(done.stderr.strip().splitlines()[-_LINES:])
    name = label or f"{target}{arguments}"
    raise RuntimeError(f"the process of {name} {how}" + (f":\n{stderr}" if stderr else ""))


def child() -> None:
    """Run in the new process: import the function, call it, write the result."""
    target, request, result, started = sys.argv[1:]
    module, function = target.split(":")
    f = operator.attrgetter(function)(importlib.import_module(module))
    start_seconds = time.time() - float(started)
    value = f(*pickle.loads(Path(request).read_bytes()))
    Path(result).write_bytes(pickle.dumps((value, start_seconds)))


def in_turn(calls: Mapping[K, Callable[[], T]], rounds: int = 1) -> dict[K, list[T]]:
    """Make every call once per round, in the same order, so that a slow phase of the machine affects all alike."""
    results: dict[K, list[T]] = {label: [] for label in calls}
    for _ in range(rounds):
        for label, f in calls.items():
            results[label].append(f())
    return results


def environment(threads: int | None = None, folders: Sequence[str | Path] = ()) -> dict[str, str]:
    """Return the environment variables of a new process."""
    variables = {**os.environ, **_ENVIRONMENT}
    home = str(Path(rnnx.__file__).resolve().parent.parent)
    paths = [str(folder) for folder in folders]
    if home != str(Path(sysconfig.get_path("purelib")).resolve()):  # an installed rnnx needs no path
        paths.append(home)
    if paths:
        before = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([*paths, before] if before else paths)
    if threads is not None:
        names = (f"{name}_{'MAXIMUM' if name == 'VECLIB' else 'NUM'}_THREADS" for name in _THREADS)
        variables.update(dict.fromkeys(names, str(threads)))
    return variables
