"""The table of engines: who runs the loop over time for which library.

An engine is a module with three functions and a class. Dimensions: T steps, m examples, n hidden units, n_x inputs,
G gates of a stage; every tuple ``(per stage)`` or ``(per state)`` follows the order of the cell record. ::

    forward(xp, cell, x, weights, s0, lengths, keep) -> (X, S, K, outputs, kept)

        x        (n_x, m, T), public layout, any strides; or (m, T), the indices of one-hot columns, zero past an
                 example's end, in memory that nobody writes to
        weights  per stage, a `rnnx.cells.parameters.StageWeights`
        s0       per state, (n, m)
        lengths  (m,) integers or None; the state of an example stays as it is from step lengths[j] on
        keep     whether a backward pass may follow; else X, K, kept and S before its last slot need not be of use
        X        (T, m, n_x), or (T, m): x, zero past an example's end, in memory that nobody else writes to
        S        per state, (T + 1, m, n), slot 0 is s0
        K        per name in cell.saved, (T, m, n); zero past an example's end
        outputs  per state, (T, m, n): the caller's; zero past an example's end
        kept     the weights, in memory that nobody else writes to

    backward(xp, cell, dS, dlast, weights, X, S, K, lengths) -> (dX, ds0, gradients)

        dS       per state, (n, m, T) or None: cotangents of the states of all steps, public layout
        dlast    per state, (n, m) or None: cotangents of the final states
        dX       (T, m, n_x); None if X holds indices
        ds0      per state, (m, n)
        gradients  per stage, a `rnnx.cells.parameters.StageGradients`

    matmul(xp, a, b, bias=None) -> a @ b + bias, for what stands on the recurrent layers

        a, b     (r, k) and (k, c)
        bias     (c,) or None

    Stepper(xp, cell, weights, s0)

        step(xt)      one step with (n_x, m); returns the states, (n, m), which a later step may overwrite
        set(states)   go on from these

Arguments are never written to. A module may be imported only when its engine is chosen.
"""

import contextlib
import contextvars
import importlib
import importlib.util
import os
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from rnnx._core import arrays as ns
from rnnx.engines.gpu.precision import use_precision as use_precision

# Engine -> module, and what must be installed for it beside the core.
_MODULES = {
    "reference": "rnnx.engines.reference",
    "cpu": "rnnx.engines.cpu.engine",
    "gpu": "rnnx.engines.gpu.cupy_engine",
}
_REQUIRES = {
    "cpu": ("numba", "pip install numba"),
    "gpu": ("cupy", "pip install 'rnnx[cuda12]' or 'rnnx[cuda13]'"),
}
_SLOW_TO_START = ("cpu",)  # a call of a single step is not worth its compilation
# Library -> engines that run its arrays, best first. Libraries that are not listed have the reference engine.
_LIBRARIES = {"numpy": ("cpu", "reference"), "cupy": ("gpu", "reference")}
_ANY_LIBRARY = ("reference",)

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_engine", default=None)


def engine_names() -> tuple[str, ...]:
    """Names of all engines."""
    return tuple(_MODULES)


def engines_of(library: str) -> tuple[str, ...]:
    """Names of the engines that can run arrays of a library here, best first."""
    return tuple(name for name in _LIBRARIES.get(library, _ANY_LIBRARY) if _installed(name))


def engine_for(*arrays: Any) -> str:
    """Name of the engine that a sequence function runs on these arrays.

    Parameters
    ----------
    *arrays : array
        Arrays of one library.

    Returns
    -------
    str
        "reference" (a loop over the library's own functions), "cpu" (compiled, for NumPy arrays) or "gpu" (CUDA
        kernels, for CuPy arrays). The single-step functions, and sequences of one step, have no loop that is worth a
        compilation by "cpu": NumPy arrays then run "reference" unless `use_engine` says otherwise.
    """
    xp, _ = ns.common_namespace({f"argument {i + 1}": array for i, array in enumerate(arrays)})
    return select(xp)


@contextlib.contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Run everything inside the ``with`` block, in this thread, on one engine.

    Parameters
    ----------
    name : str
        "reference", "cpu" or "gpu".

    Raises
    ------
    ValueError
        If there is no engine of that name, or it cannot run here (on entry), or it cannot run the arrays
        it is given (in the call).
    """
    if name not in _MODULES:
        raise ValueError(f"`name` must be one of {engine_names()}; got {name!r}")
    _require(name)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _require(name: str) -> None:
    if not _installed(name):
        package, command = _REQUIRES[name]
        raise ValueError(f"engine {name!r} needs {package}, installed ({command}) and not disabled")


def _installed(name: str) -> bool:
    if name not in _REQUIRES:
        return True
    package = _REQUIRES[name][0]
    disabled = package == "numba" and os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not disabled and _found(package)


@lru_cache(maxsize=8)
def _found(package: str) -> bool:
    """Whether a package can be imported; a search of the disk."""
    return importlib.util.find_spec(package) is not None


def select(xp: Any, *, n_steps: int = 2, m: int = 1) -> str:
    """Name of the engine for arrays of namespace `xp`.

    A call without anything to compute runs "reference".
    """
    library = ns.library_name(xp)
    able = _LIBRARIES.get(library, _ANY_LIBRARY)
    forced = _forced.get()
    if forced is not None and forced not in able:
        raise ValueError(f"engine {forced!r} does not run {library} arrays; {list(able)} do")
    if n_steps == 0 or m == 0:
        return "reference"
    if forced is not None:
        return forced
    return next(name for name in able if _installed(name) and not (n_steps == 1 and name in _SLOW_TO_START))


def load(name: str) -> ModuleType:
    """The engine's module."""
    return importlib.import_module(_MODULES[name])


def matmul(xp: Any, a: Any, b: Any, bias: Any = None) -> Any:
    """The product a b + bias, by the engine for arrays of namespace `xp`."""
    return load(select(xp, m=a.shape[0])).matmul(xp, a, b, bias)


def warm_up(*cells: Any, dtypes: tuple[str, ...] = ("float32",)) -> None:
    """Compile ahead, so that no later call has to.

    Parameters
    ----------
    *cells : str or Cell
        Cells to compile; default: those of the table.
    dtypes : tuple of str
        "float32" and/or "float64".

    Raises
    ------
    ValueError
        For an unknown cell or dtype, or if there is no Numba.
    """
    from rnnx.cells import CELLS, cell_of

    _require("cpu")
    for dtype in dtypes:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"`dtypes` must hold 'float32' and 'float64' only; got {dtype!r}")
    for cell in cells or CELLS:
        for dtype in dtypes:
            load("cpu").compile_ahead(cell_of(cell), dtype)
