"""Precision of float32 products on a GPU."""

import contextlib
import contextvars
from collections.abc import Iterator

from rnnx._core.checks import choice

# None: the default of the array library.
chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_precision", default=None)


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Set the precision of float32 matrix products on a GPU inside the ``with`` block, in this thread.

    Applies to recurrent and dense layers. The default is CuPy's: "ieee", unless the environment has CUPY_TF32=1.

    Parameters
    ----------
    name : str
        "ieee" (float32 throughout) or "tf32" (factors rounded to 10 mantissa bits, sums in float32: relative errors of
        about 3e-4, several times as fast on tensor cores).

    Raises
    ------
    ValueError
        For an unknown name.
    """
    choice("name", name, ("ieee", "tf32"))
    token = chosen.set(name)
    try:
        yield
    finally:
        chosen.reset(token)
