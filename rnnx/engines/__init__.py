"""The table of engines, and the choice of one for an array library. `protocol` defines their interface."""

import contextlib
import contextvars
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import choice, flag
from rnnx._core.words import shown
from rnnx.cells import BUILT_IN, Cell, cell_of
from rnnx.engines.operations import Operations
from rnnx.engines.precision import check, chosen, conversion
from rnnx.engines.precision import use_precision as use_precision
from rnnx.engines.protocol import Engine, StepCapture
from rnnx.engines.reference.operations import OPERATIONS


@dataclass(frozen=True)
class _Entry:
    engine: Engine | str  # "module:name" is imported on first use
    libraries: tuple[str, ...] = ()  # libraries it supports; empty means any
    requires: tuple[str, str] | None = None  # an extra package, and the command that installs it
    default: bool = True  # False: runs only under `use_engine`
    compiles: bool = False  # True: not used for single steps by default


# The reference engine is the fallback.
_TABLE = {
    "reference": _Entry("rnnx.engines.reference:ENGINE"),
    "cpu": _Entry("rnnx.engines.cpu.engine:ENGINE", ("numpy",), ("numba", "pip install numba"), compiles=True),
    "gpu": _Entry(
        "rnnx.engines.gpu.cupy_device:ENGINE", ("cupy",), ("cupy", "pip install 'rnnx[cuda12]' or 'rnnx[cuda13]'")
    ),
}

_BUILT_IN = frozenset(_TABLE)
_changes = 0  # of the table

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_engine", default=None)


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_TABLE)


def register_engine(
    name: str,
    engine: Engine | str,
    libraries: tuple[str, ...] = (),
    *,
    requires: tuple[str, str] | None = None,
    default: bool = True,
) -> None:
    """Register an engine.

    Parameters
    ----------
    name : str
        Name for `use_engine`.
    engine : Engine or str
        The engine (see `rnnx.engines.protocol`), or "module:name", imported on first use.
    libraries : tuple of str
        Array libraries that it supports, such as "numpy", "cupy", "torch"; empty for any library.
    requires : (str, str), optional
        A package that it needs, and the command that installs it.
    default : bool
        Whether it becomes the default engine for `libraries`. If False, it runs only under `use_engine`.

    Raises
    ------
    ValueError
        If `name` is taken, `engine` is a string not of the form "module:name", or `requires` does not have two items.
    TypeError
        If an argument has the wrong type, or `engine` lacks a method.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a str; got {shown(name)}")
    if not isinstance(engine, str):
        _checked("`engine`", engine)
    elif not all(engine.partition(":")):
        raise ValueError(f"`engine` must be an engine or a string 'module:name'; got {shown(engine)}")
    for argument, value in {"libraries": libraries, "requires": requires or ("", "")}.items():
        if not isinstance(value, tuple) or not all(isinstance(word, str) for word in value):
            raise TypeError(f"`{argument}` must be a tuple of str; got {shown(value)}")
    if requires and len(requires) != 2:
        raise ValueError(f"`requires` must be a package and the command that installs it; got {shown(requires)}")
    entry = _Entry(engine, libraries, requires, flag("default", default))
    if _TABLE.setdefault(name, entry) is not entry:
        raise ValueError(f"`name` {name!r} is already registered")
    _count_change()


def unregister_engine(name: str) -> None:
    """Remove a registered engine, which no thread may be using. The caches of its forward passes become useless.

    Parameters
    ----------
    name : str

    Raises
    ------
    ValueError
        If the engine is unknown, or part of rnnx.
    """
    choice("name", name, [name for name in _TABLE if name not in _BUILT_IN])
    del _TABLE[name]
    _count_change()
    _able.cache_clear()
    _selected.cache_clear()
    load.cache_clear()


def _count_change() -> None:
    global _changes
    _changes += 1


def _checked(what: str, engine: Any) -> Engine:
    """Return `engine` if it has the methods of an engine."""
    methods = [name for name in vars(Engine) if not name.startswith("_")]
    if isinstance(engine, type) or not all(callable(getattr(engine, name, None)) for name in methods):
        raise TypeError(f"{what} must be an object with the methods {', '.join(methods)}; got {shown(engine)}")
    return cast(Engine, engine)


def engines_of(library: str) -> tuple[str, ...]:
    """Return the names of the engines for a library's arrays that can run here, the default first."""
    return tuple(name for name in _able(library, engine_names()) if _installed(name))


@lru_cache(maxsize=32)
def _able(library: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return those of all engines that are for a library: default ones, newest first, then the others.

    `names` are those of all engines, so that a result from before a registration is not used after it.
    """
    names = [name for name in names if not _TABLE[name].libraries or library in _TABLE[name].libraries]
    defaults = [name for name in names if _TABLE[name].default]
    return (*reversed(defaults), *(name for name in names if name not in defaults))


def engine_for(*arrays: Any) -> str:
    """Return the name of the engine that a sequence function uses for these arrays.

    Parameters
    ----------
    *arrays : array
        Arrays of one library.

    Returns
    -------
    str
        "reference" (a loop over the library's own functions), "cpu" (compiled, for NumPy arrays), "gpu" (CUDA
        kernels, for CuPy arrays) or a registered engine. Single steps of NumPy arrays run on "reference", without
        compilation, unless `use_engine` is in effect.
    """
    xp, _ = ns.common_namespace({f"argument {i + 1}": array for i, array in enumerate(arrays)})
    return select(xp)


@contextlib.contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Use one engine for all calls inside the ``with`` block, in this thread.

    A backward pass runs on the engine that ran its forward pass.

    Parameters
    ----------
    name : str
        "reference", "cpu", "gpu" or the name of a registered engine.

    Raises
    ------
    ValueError
        On entry, if the engine is unknown or not installed; in a call, if it does not support the arrays.
    """
    choice("name", name, engine_names())
    _require(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def _require(name: str) -> None:
    if not _installed(name):
        package, command = _TABLE[name].requires or ("", "")
        raise ValueError(f"engine {name!r} requires {package}, which is disabled or not installed ({command})")


def _installed(name: str) -> bool:
    requires = _TABLE[name].requires
    if requires is None:
        return True
    return not (requires[0] == "numba" and _jit_disabled()) and _found(requires[0])


# `os.environ` encodes a name at every look-up, which takes a microsecond; its own dict has the names encoded.
_environment: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
_disable_jit: Any = getattr(os.environ, "encodekey", str)("NUMBA_DISABLE_JIT")


def _jit_disabled() -> bool:
    return _environment.get(_disable_jit) not in (None, "", "0", b"", b"0")


@lru_cache(maxsize=8)
def _found(package: str) -> bool:
    """Return whether a package can be imported; cached, because it searches the disk."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around a submodule
        return False


def state() -> tuple[Any, ...]:
    """Return what the engine and the precision of a pass depend on besides the call; it can be hashed, and the first
    item counts changes of the table.
    """
    return _changes, _chosen.get(), _environment.get(_disable_jit), chosen.get()


def select(xp: Any, *, n_steps: int = 2, m: int = 1) -> str:
    """Return the name of the engine for arrays of namespace `xp`; "reference" for empty calls."""
    is_empty, is_step = n_steps == 0 or m == 0, n_steps == 1
    return _selected(ns.library_name(xp), _chosen.get(), tuple(_TABLE), _jit_disabled(), is_empty, is_step)


@lru_cache(maxsize=256)
def _selected(
    library: str, chosen: str | None, names: tuple[str, ...], jit_disabled: bool, is_empty: bool, is_step: bool
) -> str:
    """Return what `select` does. `names` and `jit_disabled` are those of this call, so that no other result is used."""
    able = _able(library, names)
    if chosen is not None and chosen not in able:
        raise ValueError(f"engine {chosen!r} does not support {library} arrays; use one of {list(able)}")
    if is_empty:
        return "reference"
    if chosen is not None:
        return chosen
    for name in able:  # it stops at the reference engine at the latest, which is always installed
        if not (is_step and _TABLE[name].compiles) and _installed(name):
            break
    return name


@lru_cache(maxsize=32)
def load(name: str) -> Engine:
    """Return an engine by name, imported on first use."""
    if name not in _TABLE:
        raise ValueError(f"engine {name!r} is no longer registered")
    engine = _TABLE[name].engine
    if not isinstance(engine, str):
        return engine
    module, _, attribute = engine.partition(":")
    return _checked(f"engine {name!r}, {engine},", getattr(importlib.import_module(module), attribute))


def check_precision(argument: str, name: str, like: Array) -> str:
    """Return the name of a precision if passes on arrays such as `like` can have it."""
    return check(argument, name, like, load(select(ns.namespace(like))))


def step_capture(xp: Any) -> StepCapture | None:
    """Return what captures whole training steps on arrays of namespace `xp`; None if nothing does."""
    found: StepCapture | None = getattr(load(select(xp)), "steps", None)
    return found


def device_masks(xp: Any) -> Callable[..., Array] | None:
    """Return the function that makes masks on the device of arrays of namespace `xp`; None if there is none."""
    found: Callable[..., Array] | None = getattr(load(select(xp)), "kept", None)
    return found


def settings(xp: Any) -> tuple[Any, ...]:
    """Return what the results for arrays of namespace `xp` depend on besides the arguments."""
    return select(xp), chosen.get()


def matmul(xp: Any, a: Array, b: Array, bias: Array | None = None) -> Array:
    """Compute a @ b + bias on the engine for arrays of namespace `xp`."""
    engine = load(select(xp, m=a.shape[0]))
    convert = conversion(xp, a.dtype, engine)
    if convert is None:
        return engine.matmul(a, b, bias)
    a, b, bias = (None if each is None else convert.inward(xp, each) for each in (a, b, bias))
    return convert.outward(xp, engine.matmul(a, b, bias))


def operations(xp: Any, m: int = 1) -> Operations:
    """Return the operations of a training step for arrays of namespace `xp`; for empty ones if m = 0."""
    found: Operations = getattr(load(select(xp, m=m)), "operations", OPERATIONS)
    return found


def warm_up(
    *cells: Cell | str, dtypes: tuple[str, ...] = ("float32",), on_compile: Callable[[], object] | None = None
) -> None:
    """Compile the `cpu` engine's code ahead of the first call.

    Parameters
    ----------
    *cells : str or Cell
        Cells to compile. Default: all built-in cells.
    dtypes : tuple of str
        "float32", "float64" or both.
    on_compile : callable, optional
        Called once, without arguments, before code is compiled; not called if the object cache holds all code.

    Raises
    ------
    ValueError
        For an unknown cell or dtype, or if Numba is not installed.
    """
    _require("cpu")
    for dtype in dtypes:
        choice("dtypes", dtype, ("float32", "float64"))
    from rnnx.engines.cpu.engine import compile_ahead
    from rnnx.engines.cpu.runtime import object_cache

    calls = [on_compile] if on_compile else []
    token = object_cache.on_compile.set(lambda: calls and calls.pop()())
    try:
        for cell in cells or BUILT_IN:
            for dtype in dtypes:
                compile_ahead(cell_of(cell), dtype)
    finally:
        object_cache.on_compile.reset(token)
