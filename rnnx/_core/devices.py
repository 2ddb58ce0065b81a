"""Lookup of devices by name. CuPy is imported only on request."""

from functools import lru_cache
from typing import Any

from rnnx._core.checks import choice
from rnnx._core.install import install_command


def by_device(name: str) -> Any:
    """Return the array namespace of a device: None (NumPy) for "cpu", CuPy for "cuda"."""
    if choice("device", name, ("cpu", "cuda")) == "cpu":
        return None
    cupy, problem = _cupy()
    if problem:
        raise ValueError(f"`device` 'cuda': {problem}")
    return cupy


def cuda_lines() -> list[tuple[str, str]]:
    """Return (name, value) lines on each GPU and the CUDA versions, or one line on why there is no GPU."""
    cupy, problem = _cupy()
    if problem:
        return [("cuda", problem)]
    runtime = cupy.cuda.runtime
    lines = []
    for number in range(runtime.getDeviceCount()):
        try:
            about = runtime.getDeviceProperties(number)
            name, memory = about["name"].decode(), about["totalGlobalMem"] / 2**30
            capability = f"{about['major']}.{about['minor']}"
            lines.append((f"cuda:{number}", f"{name}, compute capability {capability}, {memory:.0f} GiB"))
        except Exception as error:
            lines.append((f"cuda:{number}", _one_line(error)))
    versions = f"driver for {_version(runtime.driverGetVersion())}, runtime {_version(runtime.runtimeGetVersion())}"
    return [*lines, ("cuda", versions)]


@lru_cache(maxsize=1)
def _cupy() -> tuple[Any, str]:
    """Return CuPy and "", or None and the reason why it cannot be used."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return None, f"CuPy is not installed: {install_cuda()}"
        return None, f"CuPy cannot be imported: {_one_line(error)}"
    except Exception as error:  # a broken installation may raise anything
        return None, f"CuPy cannot be imported: {_one_line(error)}; {install_cuda()}"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return None, "no GPU was found"
    except Exception as error:
        return None, f"no usable GPU was found: install or update the NVIDIA driver ({_one_line(error)})"
    try:  # loads the CUDA libraries, so that a missing one is reported here
        ones = cupy.ones((2, 2), dtype="float32")
        float((ones @ ones).sum())
    except Exception as error:
        package = "cupy-cuda12x" if cupy.cuda.runtime.runtimeGetVersion() < 13000 else "cupy-cuda13x"
        problem = f"a CUDA library is missing or has the wrong version: pip install '{package}[ctk]'"
        return None, f"{problem} ({_one_line(error)})"
    return cupy, ""


def install_cuda() -> str:
    """Return the command that installs CuPy and the CUDA libraries."""
    return f"{install_command('cuda13')} (for an older driver, {install_command('cuda12')})"


def _version(number: int) -> str:
    """Format CUDA's version number 13010 as "CUDA 13.1"."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def _one_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
