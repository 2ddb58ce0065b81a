"""The devices of this machine by name, and what keeps one from being used. CuPy is imported when one is asked for."""

from functools import lru_cache
from typing import Any

_INSTALL = "pip install 'rnnx[cuda13]' (or 'rnnx[cuda12]' for an older driver)"


def by_device(name: str) -> Any:
    """The namespace whose arrays live on a device: None, which stands for NumPy, or CuPy's.

    Raises
    ------
    ValueError
        If the name is unknown, or there is no CuPy or no GPU that it can use; in one line that says what to do.
    """
    if name == "cpu":
        return None
    if name != "cuda":
        raise ValueError(f"`device` must be 'cpu' or 'cuda'; got {name!r}")
    cupy, problem = _cupy()
    if problem:
        raise ValueError(f"`device` 'cuda': {problem}")
    return cupy


def cuda_lines() -> list[tuple[str, str]]:
    """Every GPU with its size and versions, as names and values; or one line that says why there is none."""
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
            lines.append((f"cuda:{number}", _in_a_line(error)))
    versions = f"driver for {_version(runtime.driverGetVersion())}, runtime {_version(runtime.runtimeGetVersion())}"
    return [*lines, ("cuda", versions)]


@lru_cache(maxsize=1)
def _cupy() -> tuple[Any, str]:
    """CuPy, and why it cannot be used; "" if it can."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return None, f"no CuPy is installed: {_INSTALL}"
        return None, f"CuPy cannot be imported: {_in_a_line(error)}"
    except Exception as error:  # whatever a broken installation raises
        return None, f"CuPy cannot be imported: {_in_a_line(error)}; {_INSTALL}"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return None, "CuPy finds no GPU"
    except Exception as error:
        return None, f"CuPy finds no GPU that it can use: install or update the driver of NVIDIA ({_in_a_line(error)})"
    try:  # CuPy loads CUDA's libraries when they are needed first: now, and not in the middle of a run
        ones = cupy.ones((2, 2), dtype="float32")
        float((ones @ ones).sum())
    except Exception as error:
        package = "cupy-cuda12x" if cupy.cuda.runtime.runtimeGetVersion() < 13000 else "cupy-cuda13x"
        return None, f"a library of CUDA is missing or does not fit: pip install '{package}[ctk]' ({_in_a_line(error)})"
    return cupy, ""


def _version(number: int) -> str:
    """CUDA's 13010 as "13.1"."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def _in_a_line(error: Exception) -> str:
    """What an error says, without the page of advice that may follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
