"""The time loops of the course's character model, compiled around the cell of `rnnx.cells.rnn`.

A call of the general functions takes longer in Python than these loops need for a whole name.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from rnnx.cells.rnn import RNN


class _Ops(NamedTuple):
    """What the RNN uses of `rnnx.cells.vocabulary.Ops`, on scalars."""

    tanh: Callable[[float], float]
    zeros_like: Callable[[float], float]


@lru_cache(maxsize=1)
def loops() -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile the forward and the backward loop; takes about two seconds in every process."""
    import numba

    compiled: Any = numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})
    stage = RNN.stages[0]
    cell_forward, cell_backward = compiled(stage.forward), compiled(stage.backward)
    ops = _Ops(compiled(lambda x: math.tanh(x)), compiled(lambda x: 0.0 * x))

    @compiled
    def forward(z, Waa, a):  # type: ignore[no-untyped-def]
        """Fill a (T + 1, n_a), whose first row is a0, from the input sides z (T, n_a)."""
        for t in range(len(z)):
            for i in range(len(Waa)):
                zh = 0.0
                for j in range(len(Waa)):
                    zh += Waa[i, j] * a[t, j]
                (a[t + 1, i],), _ = cell_forward(ops, (z[t, i],), (zh,), (a[t, i],))

    @compiled
    def backward(da, Waa, a, da0):  # type: ignore[no-untyped-def]
        """Turn da (T, n_a), the part of the loss at each step, into dz; add the rest to da0 (n_a,), initially zero."""
        for t in range(len(da) - 1, -1, -1):
            for i in range(len(Waa)):
                (da[t, i],), _, (da0[i],) = cell_backward(ops, (da[t, i] + da0[i],), (a[t, i],), (a[t + 1, i],), ())
            for i in range(len(Waa)):
                for j in range(len(Waa)):
                    da0[j] += da[t, i] * Waa[i, j]

    return forward, backward
