"""Object cache: compiles functions, caches their machine code on disk, and loads it for calls by address.

Functions come from LLVM IR or from Numba. All take integers and return nothing, so the machine code is sufficient: a
process that finds it on disk neither imports Numba nor compiles.

The cache key is a hash of the source of all modules of the CPU engine, the versions and settings of the compilers, the
CPU and its features, and either the name of a function in these modules, with all that it is given, or the IR. Stale
code is thus never loaded. `object_files` reads and writes the files.
"""

import contextlib
import ctypes
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding, ir

from rnnx.engines.cpu.codegen.ir import features
from rnnx.engines.cpu.runtime import object_files
from rnnx.engines.cpu.runtime.buffer_pool import immortal

_NUMBERS = re.compile(rb"[0-9]{1,9}( [0-9]{1,9})*")


class Job:
    """A function of integers compiled by Numba, which runs without the GIL. Those of three can be called."""

    _kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3)

    def __init__(self, address: int) -> None:
        self.address = address
        self._call = self._kind(address)
        # Numba's calling convention begins with pointers for a result and an exception; jobs set neither.
        self._nothing = (ctypes.c_int64 * 4)()
        self._place = ctypes.addressof(self._nothing)

    def __call__(self, a: int, b: int, c: int) -> None:
        """Run the function."""
        self._call(self._place, self._place, a, b, c)


def loops(module: str, *names: str) -> Mapping[str, Job]:
    """Compile functions of integers in a module of the CPU engine with Numba."""
    given = {name: value for name, value in os.environ.items() if name.startswith("NUMBA_")}
    given.pop("NUMBA_NUM_THREADS", None)  # not a setting of the compiler
    settings = (f"{name}={value}" for name, value in sorted(given.items()))
    compiler = ("numba", importlib.metadata.version("numba"), platform.python_version(), *settings)
    keys = {name: _key(module, name, *compiler) for name in names}
    return {name: Job(_load(keys[name], partial(_compile_with_numba, module, name))[name]) for name in names}


def functions(emit: Callable[[ir.Module], None], *depends: str) -> Mapping[str, int]:
    """Compile a module; return the addresses of the public functions that `emit` adds to it.

    `depends`: all that the module depends on but the CPU and the source of the CPU engine, if known. Nothing is emitted
    then for code that is cached.
    """
    if not depends:
        text, public = _emitted(emit)
        return _load(_key(text), lambda: Object(public, _compile(text)))

    def build() -> Object:
        text, public = _emitted(emit)
        return Object(public, _compile(text))

    return _load(_key(*depends), build)


def emitted_by(module: str, name: str, dtype: np.dtype, *given: int | str) -> Mapping[str, int]:
    """Compile what a function of the CPU engine emits for a dtype and more; if it is cached, nothing is emitted."""

    def emit(target: ir.Module) -> None:
        getattr(importlib.import_module(f"rnnx.engines.cpu.{module}"), name)(target, dtype, *given)

    return functions(emit, module, name, dtype.str, *map(str, given))


def remembered(name: str, limits: Sequence[tuple[int, int]], measure: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Return integers that were measured on this machine, each within its limits, from the disk if they are there."""
    key = _key("measured", name)
    stored = object_files.read(key)
    if stored is not None and _NUMBERS.fullmatch(stored):
        found = tuple(map(int, stored.split()))
        if len(found) == len(limits) and all(a <= n <= b for n, (a, b) in zip(found, limits, strict=True)):
            return found
    measured = measure()
    _write(key, " ".join(map(str, measured)).encode())
    return measured


# --- compiling ----------------------------------------------------------------------------------------------------


class Object(NamedTuple):
    """An object file."""

    symbols: dict[str, str]  # of its functions, by name
    code: bytes

    def pack(self) -> bytes:
        """Return the content of a file."""
        return json.dumps(self.symbols).encode() + b"\n" + self.code

    @classmethod
    def unpack(cls, data: bytes) -> "Object":
        """Restore what `pack` returned."""
        symbols, _, code = data.partition(b"\n")
        return cls(json.loads(symbols), code)


@lru_cache(maxsize=1)
def _target() -> binding.Target:
    with contextlib.suppress(RuntimeError):  # automatic in newer versions of llvmlite
        binding.initialize()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple()


def _emitted(emit: Callable[[ir.Module], None]) -> tuple[str, dict[str, str]]:
    """Return the IR that `emit` adds to a module, and the symbols of its public functions by name."""
    module = ir.Module()
    emit(module)
    public = {f.name: f.name for f in module.functions if not f.is_declaration and f.linkage != "internal"}
    return str(module), public


def _compile(text: str) -> bytes:
    parsed = binding.parse_assembly(text)
    parsed.verify()
    cpu = {"cpu": binding.get_host_cpu_name(), "features": features().flatten()}
    return bytes(_target().create_target_machine(**cpu, opt=3, jit=True).emit_object(parsed))


def _compile_with_numba(module: str, name: str) -> Object:
    try:
        from numba import types
    except ValueError as error:  # for instance NUMBA_NUM_THREADS=0
        raise ValueError(f"Numba cannot be imported: {error} Check the environment variables NUMBA_*") from None

    function = getattr(importlib.import_module(f"rnnx.engines.cpu.{module}"), name)
    signature = (types.int64,) * function.py_func.__code__.co_argcount
    function.compile(signature)
    compiled = function.overloads[signature]
    _, kind, (code, _) = compiled.library.serialize_using_object_code()
    assert kind == "object"
    return Object({name: compiled.fndesc.llvm_func_name}, bytes(code))


# --- loading ------------------------------------------------------------------------------------------------------

on_compile: ContextVar[Callable[[], object]] = ContextVar("rnnx_on_compile", default=lambda: None)
_lock = threading.RLock()
_loaded: dict[str, Mapping[str, int]] = {}


def _unlock() -> None:
    """Replace the lock in the child of a fork, where its holder does not exist."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def _load(key: str, build: Callable[[], Object]) -> Mapping[str, int]:
    """Return the addresses of the functions of a key, built unless they are loaded or on disk."""
    with _lock:
        if key not in _loaded:
            stored = object_files.read(key)
            if stored is None:
                on_compile.get()()
            built = build() if stored is None else Object.unpack(stored)
            if stored is None:
                _write(key, built.pack())
            machine = _target().create_target_machine(jit=True)  # the engine takes ownership
            engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
            engine.add_object_file(binding.ObjectFileRef.from_data(built.code))
            engine.finalize_object()
            immortal(engine)  # which owns the loaded code
            _loaded[key] = {name: engine.get_function_address(symbol) for name, symbol in built.symbols.items()}
        return _loaded[key]


def _write(key: str, payload: bytes) -> None:
    """Write a file, unless the sources have changed, which would not match the key."""
    if _sources() == SOURCES != "":
        object_files.write(key, payload)


# --- the cache key ------------------------------------------------------------------------------------------------


def _key(*texts: str) -> str:
    digest = hashlib.sha256()
    cpu = (binding.get_process_triple(), binding.get_host_cpu_name(), features().flatten())
    for text in (SOURCES, *texts, *cpu, llvmlite.__version__, str(binding.llvm_version_info)):
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def _sources() -> str:
    """Return the source of the CPU engine, all that compiled code depends on; empty if there is only bytecode."""
    return "".join(path.read_text("utf-8") for path in sorted(Path(__file__).parent.parent.rglob("*.py")))


SOURCES = _sources()  # at import time
