"""The functions that a cell may call, besides ``+ - *``.

Each engine passes its own `Ops`: on arrays here, on vectors in `rnnx.engines.cpu.codegen.vector_math`, on symbols in
`rnnx.engines.gpu.trace`. A function added here needs a vector version and one in ``gpu/kernels/prelude.cuh``.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple


class Ops(NamedTuple):
    """The vocabulary: elementwise functions of one argument that keep its dtype."""

    tanh: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    relu: Callable[[Any], Any]
    heaviside: Callable[[Any], Any]  # 1 where the argument is > 0, else 0: the derivative of relu
    exp: Callable[[Any], Any]
    zeros_like: Callable[[Any], Any]


@lru_cache(maxsize=32)
def array_ops(xp: Any) -> Ops:
    """Return the vocabulary for arrays of a namespace."""

    def sigmoid(x: Any) -> Any:
        # exp of a number <= 0 cannot overflow and keeps small results accurate.
        e = xp.exp(-xp.abs(x))
        return xp.where(x < 0, e, xp.ones_like(e)) / (1 + e)

    def relu(x: Any) -> Any:
        return xp.where(x < 0, xp.zeros_like(x), x)  # keeps NaN

    def heaviside(x: Any) -> Any:
        return xp.astype(x > 0, x.dtype)

    return Ops(xp.tanh, sigmoid, relu, heaviside, xp.exp, xp.zeros_like)
