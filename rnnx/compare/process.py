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
_THREADS = tuple(f"{name}_THREADS" for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMBA_NUM", "VECLIB_MAXIMUM"))
_CODE = "from rnnx.compare.process import child; child()"
_LINES = 12  # lines of stderr that the message about a failed process quotes


def call(
    target: str, *arguments: Any, label: str = "", threads: int | None = None, folders: Sequence[str | Path] = ()
) -> tuple[Any, float]:
    """Call the function "module:name" in a new process; return its result and the seconds until its module is imported.

    The process runs this rnnx on the CPU and imports nothing from the current folder; `folders` are further import
    folders. `threads` limits the numerical libraries, and `label` names the process in the RuntimeError of a failure.
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
            return pickle.loads(result.read_bytes())
    code = done.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
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
        variables["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [variables.get("PYTHONPATH")])])
    if threads is not None:
        variables |= dict.fromkeys(_THREADS, str(threads))
    return variables
