"""How exact products of float32 are on a GPU."""

import contextlib
import contextvars
from collections.abc import Iterator

PRECISIONS = ("ieee", "tf32")

# None: what the library says.
chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_precision", default=None)


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Compute the products of recurrent and dense layers on float32 arrays on a GPU so exactly, in this thread.

    It holds inside the ``with`` block. Without it CuPy's own switch decides: "ieee", unless the environment has
    CUPY_TF32=1.

    Parameters
    ----------
    name : str
        "ieee" (float32 throughout) or "tf32" (factors rounded to 10 bits behind the point, sums in float32; relative
        errors of about 3e-4, on chips with tensor cores several times as fast).

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
