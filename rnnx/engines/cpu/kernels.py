"""The kernels of the operations of a training step, compiled on first use."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.elementwise import emit_elementwise, emit_squares
from rnnx.engines.cpu.codegen.losses import emit_loss
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.operations import Loss, Rule
from rnnx.engines.softmax import LOG_SUM_EXP

DTYPES = {np.dtype(np.float32), np.dtype(np.float64)}
ONE = np.ones(1)


class Kernel(NamedTuple):
    """A kernel, also as a function of the arguments in `leaves`."""

    address: int
    run: Callable[..., None]
    n_results: int


def _kernel(arguments: Sequence[str], place: int, n_results: int = 0) -> Kernel:
    return Kernel(place, leaves.python_function(arguments, place), n_results)


@lru_cache(maxsize=256)
def elementwise(rule: Rule, names: tuple[str, ...], n_arrays: int, dtype: np.dtype) -> Kernel:
    """Return the kernel of a rule with numbers of these names."""
    counts: list[int] = []
    code = object_cache.functions(lambda module: counts.append(emit_elementwise(module, rule, names, n_arrays, dtype)))
    return _kernel(leaves.ELEMENTWISE, code["elementwise"], counts[0])


@lru_cache(maxsize=2)
def squares(dtype: np.dtype) -> Kernel:
    """Return the kernel of the sum of squares."""
    return _kernel(leaves.ELEMENTWISE, object_cache.functions(lambda module: emit_squares(module, dtype))["squares"])


@lru_cache(maxsize=64)
def loss(of: Loss, dtype: np.dtype, weighted: bool) -> Kernel:
    """Return the kernel of a loss."""
    return _kernel(leaves.LOSS, object_cache.functions(lambda module: emit_loss(module, of, dtype, weighted))["loss"])


def softmax(dtype: np.dtype) -> Kernel:
    """Return the kernel of a loss whose gradient is the softmax, if the number of terms is `ONE`."""
    return loss(LOG_SUM_EXP, dtype, False)


@lru_cache(maxsize=6)
def mask(name: str, dtype: np.dtype) -> Kernel:
    """Return a kernel of `codegen.masks`."""
    return _kernel(leaves.MASK, object_cache.emitted_by("codegen.masks", "emit_masks", dtype)[name])
