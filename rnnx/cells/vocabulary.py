"""The functions that a cell may call, besides ``+ - *``.

An engine passes an `Ops` whose functions fit its values: arrays of any namespace here, vectors in the compiled kernels
(`rnnx.engines.cpu.codegen.vector_math`), symbols in the CUDA code generator (`rnnx.engines.gpu.codegen`). A name added
here must be added there, too.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple


class Ops(NamedTuple):
    """The vocabulary. Every function is elementwise, takes one argument and keeps its dtype."""

    tanh: Callable[[Any], Any]
    sigmoid: Callable[[Any], Any]
    relu: Callable[[Any], Any]
    heaviside: Callable[[Any], Any]  # 1 where the argument is > 0, else 0: the derivative of relu
    exp: Callable[[Any], Any]
    zeros_like: Callable[[Any], Any]


@lru_cache(maxsize=32)
def array_ops(xp: Any) -> Ops:
    """Return the vocabulary for arrays of namespace `xp`."""

    def sigmoid(x: Any) -> Any:
        # exp of a number <= 0 never overflows, and keeps the precision of small results.
        e = xp.exp(-xp.abs(x))
        return xp.where(x < 0, e, xp.ones_like(e)) / (1 + e)

    def relu(x: Any) -> Any:
        return xp.where(x < 0, xp.zeros_like(x), x)  # keeps NaN

    def heaviside(x: Any) -> Any:
        return xp.astype(x > 0, x.dtype)

    return Ops(xp.tanh, sigmoid, relu, heaviside, xp.exp, xp.zeros_like)
