"""The table of engines."""

import importlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from rnnx._core.checks import choice, flag
from rnnx._core.environment import decoded, variable
from rnnx._core.install import install_command
from rnnx._core.words import shown
from rnnx.engines.protocol import Engine


@dataclass(frozen=True)
class _Entry:
    engine: Engine | str  # "module:name" is imported on first use
    libraries: tuple[str, ...] = ()  # libraries it supports; empty means any
    requires: tuple[str, str] | None = None  # a package, and the command that installs it, or the extra of rnnx
    default: bool = True  # False: runs only under `use_engine`


# The reference engine is the fallback.
_TABLE = {
    "reference": _Entry("rnnx.engines.reference:ENGINE"),
    "cpu": _Entry("rnnx.engines.cpu.engine:ENGINE", ("numpy",), ("numba", "jit")),
    "gpu": _Entry("rnnx.engines.gpu.cupy_device:ENGINE", ("cupy",), ("cupy", "cuda13")),
}

_BUILT_IN = frozenset(_TABLE)
_changes = 0  # of the table


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines.

    See Also
    --------
    engine_for, use_engine, register_engine

    Examples
    --------
    >>> import rnnx
    >>> rnnx.engine_names()[:3]
    ('reference', 'cpu', 'gpu')
    """
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

    See Also
    --------
    unregister_engine, use_engine

    Examples
    --------
    >>> import rnnx
    >>> rnnx.register_engine("mine", "rnnx.engines.reference:ENGINE", ("numpy",), default=False)
    >>> "mine" in rnnx.engine_names()
    True
    >>> rnnx.unregister_engine("mine")
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

    See Also
    --------
    register_engine

    Examples
    --------
    >>> import rnnx
    >>> rnnx.register_engine("mine", "rnnx.engines.reference:ENGINE", default=False)
    >>> rnnx.unregister_engine("mine")
    >>> "mine" in rnnx.engine_names()
    False
    """
    choice("name", name, [name for name in _TABLE if name not in _BUILT_IN])
    del _TABLE[name]
    _count_change()
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
    return tuple(name for name in able(library) if installed(name))


def able(library: str) -> tuple[str, ...]:
    """Return those of all engines that are for a library: default ones, newest first, then the others."""
    return _able(library, _changes)


@lru_cache(maxsize=32)
def _able(library: str, _: int) -> tuple[str, ...]:
    # A copy of the names: another thread may register an engine meanwhile.
    names = [name for name in tuple(_TABLE) if not _TABLE[name].libraries or library in _TABLE[name].libraries]
    defaults = [name for name in names if _TABLE[name].default]
    return (*reversed(defaults), *(name for name in names if name not in defaults))


def require(name: str) -> None:
    """Raise unless an engine can run here."""
    if why := missing(name):
        raise ValueError(why)


def missing(name: str) -> str:
    """Return why an engine cannot run here; empty if it can."""
    if installed(name):
        return ""
    package, command = _TABLE[name].requires or ("", "")
    command = install_command(command) if name in _BUILT_IN else command
    return f"engine {name!r} requires {package}, which is disabled or not installed ({command})"


def installed(name: str) -> bool:
    """Return whether the package that an engine requires is there."""
    requires = _TABLE[name].requires
    if requires is None:
        return True
    return not (requires[0] == "numba" and _jit_disabled()) and _found(requires[0])


_disable_jit = variable("NUMBA_DISABLE_JIT")


def _jit_disabled() -> bool:
    return decoded(_disable_jit()) not in ("", "0")


@lru_cache(maxsize=8)
def _found(package: str) -> bool:
    """Return whether a package can be imported; cached, because it searches the disk."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around a submodule
        return False


def version() -> int:
    """Return the number of changes of the table."""
    return _changes


def state() -> tuple[Any, ...]:
    """Return what the choice of an engine depends on here: the number of changes of the table, and the environment."""
    return _changes, _disable_jit()


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
