"""Compilation of exported models to shared libraries."""

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rnnx._core.checks import nearest
from rnnx._core.files import check_writable, write_atomically
from rnnx._core.install import install_command
from rnnx._core.words import shown

# Names for targets of zig.
TARGETS = {
    "aarch64": "aarch64-linux-gnu",
    "armv7": "arm-linux-gnueabihf",
    "x86_64": "x86_64-linux-gnu",
    "musl": "x86_64-linux-musl",
    "windows": "x86_64-windows-gnu",
    "macos": "aarch64-macos",
    "wasm32": "wasm32-freestanding",
}
_FLAGS = ["-std=c99", "-O3", "-ffp-contract=fast", "-DRNNX_SHARED"]
_MODULE = ["-Wl,--no-entry", "-Wl,--export=__heap_base", "-Wl,-z,stack-size=65536"]
# Features of the processors that have them all.
_PROCESSORS = {"wasm32": "-mcpu=generic+simd128+bulk_memory", "armv7": "-mcpu=generic+v7a+neon+vfp4"}


def build(source: str | Path, output: str | Path | None = None, *, target: str | None = None) -> Path:
    """Compile a C file of `to_c` to a shared library, which `load` runs, or to a WebAssembly module.

    Parameters
    ----------
    source : str or Path
        The C file.
    output : str or Path, optional
        The library. By default it is beside the source: for model.c, model.so, model.dylib, model.dll or model.wasm,
        but model-aarch64.so, say, for another target of Linux.
    target : str, optional
        "aarch64", "armv7", "x86_64" (Linux with glibc), "musl" (x86_64), "windows" (x86_64), "macos" (aarch64),
        "wasm32", or a target of zig such as "riscv64-linux-musl". By default, this machine's own processor, with all
        its features.

    Returns
    -------
    Path
        The library.

    Raises
    ------
    ValueError, TypeError
        If the source is not a C file, or the target is unknown.
    RuntimeError
        If there is no compiler, or it fails. This machine's compiler is $CC, cc, gcc or clang; without one, and for
        other targets, it is zig, which ``pip install ziglang`` installs.

    See Also
    --------
    to_c, load

    Examples
    --------
    >>> from rnnx.export import build, to_c
    >>> from rnnx.models import SequenceRegressor
    >>> source, _ = to_c(SequenceRegressor(3, 8, rng=0), "model.c")
    >>> library = build(source)  # needs a C compiler; or, say, build(source, target="aarch64")
    >>> library.stem
    'model'
    """
    if not isinstance(source, str | Path):
        raise TypeError(f"`source` must be a str or Path; got {shown(source)}")
    source = Path(source)
    if source.suffix != ".c" or not source.is_file():
        raise ValueError(f"`source` must be a C file written by to_c; got {source}")
    output = _beside(source, target) if output is None else Path(output)
    check_writable(output)
    command = [*compiler(target), *_FLAGS, *_linking(target)]
    with tempfile.TemporaryDirectory(prefix="rnnx-") as folder:
        made = Path(folder) / f"model{suffix(target)}"
        run = subprocess.run([*command, str(source.resolve()), "-o", str(made)], capture_output=True, text=True)
        if run.returncode or not made.is_file():
            said = (run.stderr or run.stdout).strip().splitlines() or ["no message"]
            raise RuntimeError(f"{command[0]} could not compile {source}: {next(filter(_is_error, said), said[0])}")
        write_atomically(output, made.read_bytes())
    return output


def _beside(source: Path, target: str | None) -> Path:
    ending = suffix(target)
    return source.with_name(f"{source.stem}-{target}.so" if target and ending == ".so" else source.stem + ending)


def _is_error(line: str) -> bool:
    return "error" in line


def triple(target: str) -> str:
    """Return zig's name of a target."""
    if not isinstance(target, str):
        raise TypeError(f"`target` must be a str; got {shown(target)}")
    if target not in TARGETS and target.count("-") not in (1, 2):
        expected = f"one of {', '.join(TARGETS)}, or a target of zig such as riscv64-linux-musl"
        raise ValueError(f"`target` must be {expected}; got {shown(target)}{nearest(target, TARGETS)}")
    return TARGETS.get(target, target)


def suffix(target: str | None) -> str:
    """Return how the name of a library ends."""
    system = platform.system().lower() if target is None else triple(target)
    endings = {"wasm": ".wasm", "windows": ".dll", "darwin": ".dylib", "macos": ".dylib"}
    return next((ending for word, ending in endings.items() if word in system), ".so")


def compiler(target: str | None = None) -> list[str]:
    """Return the command that compiles for a target. Raise RuntimeError if there is none."""
    if target is not None:
        triple(target)  # raises if it is unknown
    else:
        own = shlex.split(os.environ.get("CC", ""))
        found = own or next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), [])
        if found and shutil.which(found[0]):
            return found
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    if shutil.which("zig"):
        return ["zig", "cc"]
    what = "no C compiler was found" if target is None else f"compiling for {target} requires zig"
    raise RuntimeError(f"{what}: {install_command('zig')}")


def _linking(target: str | None) -> list[str]:
    if target is None:
        return ["-march=native", "-shared", "-fPIC"]
    name = triple(target)
    processor = [_PROCESSORS[target]] if target in _PROCESSORS else []
    kind = _MODULE if "wasm" in name else ["-shared", "-DRNNX_ENTRY"] if "windows" in name else ["-shared", "-fPIC"]
    # Without functions of the C library, such as memcpy, that compilers know, no library is needed.
    return ["-target", name, *processor, *kind, "-nostdlib", "-fno-builtin", "-s"]
