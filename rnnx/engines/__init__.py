"""The choice of an engine for an array library. `registry` has the table of engines, `protocol` their interface."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import choice
from rnnx.cells import BUILT_IN, Cell, cell_of
from rnnx.engines import registry
from rnnx.engines.operations import Operations
from rnnx.engines.precision import check, chosen, conversion
from rnnx.engines.precision import use_precision as use_precision
from rnnx.engines.protocol import StepCapture
from rnnx.engines.reference.operations import OPERATIONS
from rnnx.engines.registry import engine_names as engine_names
from rnnx.engines.registry import engines_of as engines_of
from rnnx.engines.registry import load as load
from rnnx.engines.registry import register_engine as register_engine
from rnnx.engines.registry import unregister_engine as unregister_engine

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_engine", default=None)


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
        kernels, for CuPy arrays) or a registered engine.

    See Also
    --------
    use_engine, engine_names

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> with rnnx.use_engine("reference"):
    ...     rnnx.engine_for(np.ones(3))
    'reference'
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

    See Also
    --------
    engine_for, use_precision

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, rng=0)
    >>> with rnnx.use_engine("reference"):
    ...     a, _, caches = rnnx.gru_forward(np.ones((3, 4, 7), "float32"), None, parameters)
    >>> caches.engine
    'reference'
    """
    choice("name", name, engine_names())
    registry.require(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def state() -> tuple[Any, ...]:
    """Return what the engine and the precision of a pass depend on besides the call; it can be hashed, and the first
    item counts changes of the table.
    """
    return *registry.state(), _chosen.get(), chosen.get()


def select(xp: Any, *, n_steps: int = 1, m: int = 1) -> str:
    """Return the name of the engine for arrays of namespace `xp`; "reference" for empty calls."""
    return _selected(ns.library_name(xp), _chosen.get(), registry.state(), n_steps == 0 or m == 0)


@lru_cache(maxsize=256)
def _selected(library: str, chosen: str | None, _: tuple[Any, ...], is_empty: bool) -> str:
    """Return what `select` does, as long as the state of the table is that of this call."""
    able = registry.able(library)
    if chosen is not None and chosen not in able:
        raise ValueError(f"engine {chosen!r} does not support {library} arrays; use one of {list(able)}")
    if is_empty:
        return "reference"
    if chosen is not None:
        return chosen
    for name in able:  # it stops at the reference engine at the latest, which is always installed
        if registry.installed(name):
            break
    return name


def check_precision(argument: str, name: str, like: Array) -> str:
    """Return the name of a precision if passes on arrays such as `like` can have it."""
    return check(argument, name, like, load(select(ns.namespace(like))))


def step_capture(xp: Any) -> StepCapture | None:
    """Return what captures whole training steps on arrays of namespace `xp`; None if nothing does."""
    found: StepCapture | None = getattr(load(select(xp)), "steps", None)
    return found


def masks(xp: Any) -> Callable[..., Array] | None:
    """Return the function that makes the masks of dropout of namespace `xp`; None if there is none."""
    found: Callable[..., Array] | None = getattr(load(select(xp)), "kept", None)
    return found


def dropout(xp: Any) -> Callable[..., tuple[Array, Callable[[Array], Array]] | None] | None:
    """Return the function that applies dropout to arrays of namespace `xp`; None if there is none."""
    found: Any = getattr(load(select(xp)), "dropped", None)
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


def dense_gradients(xp: Any, dz: Array, a: Array, W: Array) -> tuple[Array, Array, Array] | None:
    """Return the gradients da, dW and db (n_y, 1) of z = a W^T + b, for dz (r, n_y) and a (r, n_a), on the engine for
    arrays of namespace `xp`; None if it has no such function for them.
    """
    engine = load(select(xp, m=a.shape[0]))
    found: Any = getattr(engine, "dense_gradients", None)
    return None if found is None or conversion(xp, a.dtype, engine) is not None else found(dz, a, W)


def product(xp: Any, a: Array, b: Array) -> Array:
    """Compute a @ b as `matmul` does, but in the dtype of the arrays; on a device also of stacks of matrices."""
    return load(select(xp)).matmul(a, b)


def joined(xp: Any, arrays: Sequence[Array]) -> Array:
    """Return arrays of one dtype, each of shape (n,), one after the other."""
    found = getattr(operations(xp), "joined", None)
    result: Array = ns.concat(xp, arrays) if found is None else found(arrays)
    return result


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

    See Also
    --------
    initialize_parameters, engine_for

    Examples
    --------
    >>> import rnnx
    >>> rnnx.warm_up("gru", dtypes=("float32", "float64"))  # doctest: +SKIP
    """
    registry.require("cpu")
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
