"""The precision of passes, which may be lower than that of the arrays: parameters then keep their small changes.

A pass in another precision converts its arguments, and converts its results back. In 16 bits, an engine with
`halves` stores 16 bits and computes in float32. Any other rounds arguments and results to 16 bits, so that the numerics
of a GPU can be tried without one; it does not round the states between two steps of a pass.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import choice
from rnnx.engines.protocol import Arrays, Call, Cotangents, Engine, Gradients

PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16")
_HALVES = ("bfloat16", "float16")
_OF_THE_ARRAYS = (None, "ieee", "tf32")

# None: the default of the array library.
chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_precision", default=None)


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Set the precision of recurrent and dense layers inside the ``with`` block, in this thread.

    A backward pass of a recurrent layer has the precision of its forward pass. Cell functions and streams are not
    affected.

    Parameters
    ----------
    name : str
        "ieee": that of the arrays; float32 products on a GPU are IEEE's. It is the default, but for CuPy arrays
        CUPY_TF32=1 in the environment makes it "tf32".
        "tf32": as "ieee", but factors of float32 products on a GPU are rounded to 10 mantissa bits, and sums are in
        float32: relative errors of about 3e-4, several times as fast on tensor cores.
        "float16", "bfloat16": arguments and results are rounded to 16 bits, and keep their dtype. A GPU stores 16 bits
        and computes in float32; elsewhere all else is float32, also the states between two steps.
        "float32", "float64": arguments and results are converted.

    Raises
    ------
    ValueError, TypeError
        For an unknown name; in a call, if the array library lacks the dtype.

    See Also
    --------
    use_engine

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, rng=0)
    >>> x = np.ones((3, 4, 7), "float32")
    >>> with rnnx.use_precision("float64"):
    ...     a, _, _ = rnnx.gru_forward(x, None, parameters)
    >>> a.dtype  # computed in float64
    dtype('float32')
    >>> b, _, _ = rnnx.gru_forward(x, None, parameters)
    >>> print(0 < np.abs(a - b).max() < 1e-6)
    True
    """
    token = chosen.set(choice("name", name, ("ieee", *PRECISIONS)))
    try:
        yield
    finally:
        chosen.reset(token)


def check(argument: str, name: str, like: Array, engine: Engine) -> str:
    """Return the name of a precision if passes of an engine, on arrays such as `like`, can have it."""
    xp = ns.namespace(like)
    if choice(argument, name, PRECISIONS) == "tf32" and not (_has_halves(engine) and like.dtype == xp.float32):
        got = f"{like.dtype} on {ns.device(like)}"
        raise ValueError(f"`{argument}` = 'tf32' is for float32 parameters on a GPU; these are {got}")
    if name in _HALVES:
        try:
            ns.rounded(xp, like[:0, ...], name)
        except ValueError as error:
            raise ValueError(f"`{argument}` = {name!r} is not possible: {error}") from None
    return name


def _has_halves(engine: Engine) -> bool:
    return bool(getattr(engine, "halves", False))


class Conversion(NamedTuple):
    """How the arguments of a pass are converted, and its results converted back."""

    half: str | None  # what all of them are rounded to
    dtype: Any  # of the pass
    outer: Any  # of the caller's arrays

    def inward(self, xp: Any, a: Array) -> Array:
        """Convert an argument."""
        a = ns.astype(xp, a, self.dtype)
        return a if self.half is None else ns.rounded(xp, a, self.half)

    def outward(self, xp: Any, a: Array) -> Array:
        """Convert a result."""
        return ns.astype(xp, a if self.half is None else ns.rounded(xp, a, self.half), self.outer)

    def call(self, call: Call) -> Call:
        """Convert the arguments of a forward pass."""
        xp = call.xp
        return call._replace(
            dtype=self.dtype,
            x=call.x if call.indices else self.inward(xp, call.x),
            s0=tuple([self.inward(xp, s) for s in call.s0]),
            parameters={key: self.inward(xp, value) for key, value in call.parameters.items()},
            inputs=tuple([self.inward(xp, e) for e in call.inputs]),
        )

    def cotangents(self, xp: Any, given: Cotangents) -> Cotangents:
        """Convert the arguments of a backward pass."""
        return Cotangents(*(tuple([None if d is None else self.inward(xp, d) for d in ds]) for ds in given))

    def gradients(self, xp: Any, found: Gradients) -> Gradients:
        """Convert the results of a backward pass."""

        def each(arrays: Arrays) -> Arrays:
            return tuple([self.outward(xp, a) for a in arrays])

        named = {key: self.outward(xp, value) for key, value in found.parameters.items()}
        x = None if found.x is None else self.outward(xp, found.x)
        return Gradients(x, each(found.s0), named, each(found.inputs))


def conversion(xp: Any, dtype: Any, engine: Engine) -> Conversion | None:
    """Return the conversion of a pass on arrays of a dtype; None if there is none."""
    name = chosen.get()
    if name in _OF_THE_ARRAYS or name == str(dtype):
        return None
    assert name is not None
    half = name in _HALVES and not _has_halves(engine)  # the engine computes in float32
    return Conversion(name if half else None, ns.float_dtype(xp, "float32" if half else name), dtype)
