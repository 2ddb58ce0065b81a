"""Precision of float32 products on a GPU."""

import contextlib
import contextvars
from collections.abc import Iterator

PRECISIONS = ("ieee", "tf32")

# None: the default of the array library.
chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_precision", default=None)


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Set the precision of matrix products on float32 arrays on a GPU, in this thread, inside the ``with`` block.

    It applies to recurrent and dense layers. The default is CuPy's own setting: "ieee", unless the environment
    variable CUPY_TF32 is 1.

    Parameters
    ----------
    name : str
        "ieee" (float32 throughout) or "tf32" (factors rounded to a mantissa of 10 bits, sums in float32: relative
        errors of about 3e-4, and several times as fast on GPUs with tensor cores).

    Raises
    ------
    ValueError
        For another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"`name` must be one of {PRECISIONS}; got {name!r}")
    token = chosen.set(name)
    try:
        yield
    finally:
        chosen.reset(token)
