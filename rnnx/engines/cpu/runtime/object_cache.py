"""Object cache: compiles functions, keeps their machine code on disk, and loads it as functions called by address.

Functions come from LLVM IR, emitted with `codegen.ir`, or are compiled by Numba. All take integers and return nothing,
so their machine code is all that is kept, and a process that finds it on disk neither imports Numba nor compiles.

The cache key is a hash of everything that the code depends on: the IR, the source of all modules of the CPU engine, the
versions and settings of the compilers, the CPU and its features. So stale code is never loaded. Any error of the file
system means compiling again, not failing.
"""

import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import stat
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
from llvmlite import binding, ir

_MOST_FILES = 256
ROOT = Path(__file__).parent.parent  # the CPU engine; compiled code depends on no other file
_DIGEST = hashlib.sha256().digest_size


class Job:
    """A function of three integers that Numba compiled. It runs without the GIL."""

    _kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3)

    def __init__(self, address: int) -> None:
        self.address = address
        self._call = self._kind(address)
        # Numba's calling convention begins with places for a result and an exception; such a function sets neither.
        self._nothing = (ctypes.c_int64 * 4)()
        self._place = ctypes.addressof(self._nothing)

    def __call__(self, me: int, n: int, descriptor: int) -> None:
        """Run as thread `me` of `n`."""
        self._call(self._place, self._place, me, n, descriptor)


def loops(module: str, *names: str) -> Mapping[str, Job]:
    """Return functions of three integers from a module of the CPU engine, compiled by Numba."""
    settings = (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_"))
    compiler = (importlib.metadata.version("numba"), platform.python_version(), *settings)
    key = _key(module, *names, "numba", *compiler)
    addresses = _load(key, lambda: _compile_with_numba(module, names))
    return {name: Job(address) for name, address in addresses.items()}


def functions(emit: Callable[[ir.Module], None]) -> Mapping[str, int]:
    """Return the addresses of the public functions that `emit` adds to a module."""
    module = ir.Module()
    emit(module)
    text = str(module)
    public = {f.name: f.name for f in module.functions if not f.is_declaration and f.linkage != "internal"}
    return _load(_key(text), lambda: [(public, _compile(text))])


# --- compiling ----------------------------------------------------------------------------------------------------

Objects = list[tuple[dict[str, str], bytes]]  # object files, each with the symbols of its functions by name


@lru_cache(maxsize=1)
def _target() -> binding.TargetMachine:
    with contextlib.suppress(RuntimeError):  # newer versions of llvmlite do it themselves
        binding.initialize()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(cpu=binding.get_host_cpu_name(), features=_features(), opt=3, jit=True)


def _features() -> str:
    try:
        return str(binding.get_host_cpu_features().flatten())
    except RuntimeError:  # not available on this platform
        return ""


def _compile(text: str) -> bytes:
    parsed = binding.parse_assembly(text)
    parsed.verify()
    return bytes(_target().emit_object(parsed))


def _compile_with_numba(module: str, names: tuple[str, ...]) -> Objects:
    from numba import types

    objects: Objects = []
    for name in names:
        function = getattr(importlib.import_module(f"rnnx.engines.cpu.{module}"), name)
        signature = (types.int64,) * 3
        function.compile(signature)
        compiled = function.overloads[signature]
        _, kind, (code, _) = compiled.library.serialize_using_object_code()
        assert kind == "object"
        objects.append(({name: compiled.fndesc.llvm_func_name}, bytes(code)))
    return objects


# --- loading ------------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_loaded: dict[str, Mapping[str, int]] = {}
_engines: list[Any] = []  # own the loaded code, which is never freed: descriptors hold its addresses


def _unlock() -> None:
    """Replace the lock in the child of a fork: the thread that holds it does not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def _load(key: str, build: Callable[[], Objects]) -> Mapping[str, int]:
    with _lock:
        if key not in _loaded:
            objects = _read(key)
            if objects is None:
                objects = build()
                if (
                    _sources() == SOURCES != ""
                ):  # otherwise the sources changed since import: the key may not fit the code
                    _write(key, objects)
            addresses: dict[str, int] = {}
            for symbols, code in objects:
                engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_of_engine())
                engine.add_object_file(binding.ObjectFileRef.from_data(code))
                engine.finalize_object()
                _engines.append(engine)
                addresses |= {name: engine.get_function_address(symbol) for name, symbol in symbols.items()}
            _loaded[key] = addresses
        return _loaded[key]


def _target_of_engine() -> binding.TargetMachine:
    _target()
    return binding.Target.from_default_triple().create_target_machine(jit=True)  # the engine takes ownership


# --- on disk ------------------------------------------------------------------------------------------------------


def _key(*texts: str) -> str:
    digest = hashlib.sha256()
    cpu = (binding.get_process_triple(), binding.get_host_cpu_name(), _features())
    for text in (SOURCES, *texts, *cpu, llvmlite.__version__, str(binding.llvm_version_info)):
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def _sources() -> str:
    """The source of all modules of the CPU engine; empty if there is only bytecode."""
    return "".join(path.read_text("utf-8") for path in sorted(ROOT.rglob("*.py")))


SOURCES = _sources()  # at import time


@lru_cache(maxsize=1)
def cache_directory() -> Path | None:
    """Return the directory of the cache. None if there is none, or others can write to it: their code must not run."""
    given = os.environ.get("RNNX_CACHE_DIR")
    if given == "":
        return None
    try:
        if given is None:
            import platformdirs

            directory = Path(platformdirs.user_cache_dir("rnnx", appauthor=False))
        else:
            directory = Path(given)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        mine = not hasattr(os, "geteuid") or (
            status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o022
        )
        return directory if mine else None
    except (OSError, RuntimeError):  # no home directory, or not writable
        return None


def _read(key: str) -> Objects | None:
    """Read the object files under a key; None if there are none, or the file is damaged."""
    directory = cache_directory()
    if directory is None:
        return None
    try:
        data = (directory / f"{key}.o").read_bytes()
    except OSError:
        return None
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    head, _, codes = payload.partition(b"\n")
    objects: Objects = []
    for symbols, size in json.loads(head):
        objects.append((symbols, codes[:size]))
        codes = codes[size:]
    return objects


def _write(key: str, objects: Objects) -> None:
    directory = cache_directory()
    if directory is None:
        return
    head = json.dumps([[symbols, len(code)] for symbols, code in objects]).encode()
    payload = b"\n".join([head, b"".join(code for _, code in objects)])
    with contextlib.suppress(OSError):
        handle, temporary = tempfile.mkstemp(dir=directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, directory / f"{key}.o")
        except BaseException:
            os.unlink(temporary)
            raise
        kept = sorted(directory.glob("*.o"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-_MOST_FILES]:
            path.unlink()
