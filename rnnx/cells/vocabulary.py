"""The vocabulary a cell may use, beside ``+ - *``.

An engine hands a cell an `Ops` of functions that fit what it passes: arrays of any namespace here, vectors
in the compiled kernels (`rnnx.engines.cpu.codegen.vector_math`). A name added here must be added there too.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple


class Ops(NamedTuple):
    """What a cell may call. Every function is elementwise, takes one argument and keeps its dtype."""

    tanh: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    relu: Callable[[Any], Any]
    heaviside: Callable[[Any], Any]  # 1 where the argument is > 0, else 0: the derivative of relu
    exp: Callable[[Any], Any]
    zeros_like: Callable[[Any], Any]


@lru_cache(maxsize=32)
def array_ops(xp: Any) -> Ops:
    """The vocabulary on arrays of namespace `xp`."""

    def sigmoid(x: Any) -> Any:
        # exp of a number <= 0 neither overflows nor loses the small values at the far left.
        e = xp.exp(-xp.abs(x))
        return xp.where(x < 0, e, xp.ones_like(e)) / (1 + e)

    def relu(x: Any) -> Any:
        return xp.where(x < 0, xp.zeros_like(x), x)  # keeps NaN

    def heaviside(x: Any) -> Any:
        return xp.astype(x > 0, x.dtype)

    return Ops(xp.tanh, sigmoid, relu, heaviside, xp.exp, xp.zeros_like)
