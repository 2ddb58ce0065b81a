"""What products and waiting cost on this machine, for `thread_policy`. Results do not depend on it.

The first process on a machine measures them in less than a tenth of a second; the object cache keeps them.
RNNX_AUTOTUNE=0 leaves them at the defaults of `Costs`. They stay near those, whatever else runs meanwhile.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.gemm import KC
from rnnx.engines.cpu.codegen.ir import lanes
from rnnx.engines.cpu.runtime import object_cache, thread_pool
from rnnx.engines.cpu.runtime.buffer_pool import addresses
from rnnx.engines.cpu.runtime.tuning import autotunes, panel_vectors, seconds
from rnnx.engines.cpu.runtime.work import Costs

_FACTOR = 4
_FEW, _MANY = 1, 96  # rows
# Vectors by KC terms, and rows: the first three in the L2 cache, 0.3 and 0.9 MB with AVX-512; the last, of 7 MB, not.
_SIZES = ((12, _FEW), (36, _FEW), (36, _MANY), (288, _FEW))
_ROUNDS = 5
_WAITS = 100  # steps in which threads wait


def costs(threads: int) -> Costs:
    """Return the costs on this machine, of waiting only if there are several threads."""
    if not autotunes():
        return Costs()
    products = _remembered("products", Costs()[:3], lambda: of_times(*_times()))
    waiting = _remembered("waiting", Costs()[3:], lambda: (_wait(),)) if threads > 1 else Costs()[3:]
    return Costs(*products, *waiting)


def _remembered(name: str, usual: tuple[int, ...], measure: Callable[[], Sequence[float]]) -> tuple[int, ...]:
    """Return costs from the disk, or else measured, within a factor of the usual ones."""
    limits = [(-(-n // _FACTOR), n * _FACTOR) for n in usual]

    def within() -> tuple[int, ...]:
        return tuple([round(min(max(n, a), b)) for n, (a, b) in zip(measure(), limits, strict=True)])

    return object_cache.remembered(name, limits, within)


def of_times(near_few: float, near_many: float, far_few: float) -> Sequence[float]:
    """Return the costs of products, given nanoseconds per weight with few and many rows."""
    row = max(near_many - near_few, 1e-3) / (_MANY - _FEW)
    return 1 / row, near_few / row, far_few / row


def _times() -> Sequence[float]:
    """Return the least nanoseconds per weight of products with few and many rows."""
    near, more, many, far = (_least(_product(*size)) for size in _SIZES)
    vectors, others, (of_many, _), (of_far, _) = _SIZES
    few = (more - near) / (others[0] - vectors[0])  # the time of a call itself cancels out
    return [1e9 * time / (KC * lanes(np.float32)) for time in (few, many / of_many, far / of_far)]


def _least(call: Callable[[], None]) -> float:
    """Return the shortest time of a call in seconds, after a first one."""
    call()
    return min(seconds(call) for _ in range(_ROUNDS))


def _product(vectors: int, rows: int) -> Callable[[], None]:
    """Return a function that multiplies some rows by KC terms of so many vectors of columns."""
    dtype, nv = np.dtype(np.float32), panel_vectors(1, rows)
    columns, item = vectors * lanes(dtype), dtype.itemsize
    address = object_cache.emitted_by("codegen.gemm", "emit_product", dtype, nv, "")[f"product_{nv}"]
    product = leaves.python_function(leaves.PRODUCT, address)
    arrays = [np.ones(n, dtype) for n in (KC * columns, rows * KC, rows * columns)]

    def call() -> None:
        w, h, z = addresses(arrays)
        product(w, vectors, 0, vectors, KC, h, KC * item, item, rows, z, 0, z, columns * item, 0, 0, 0)

    return call


def _wait() -> float:
    """Return the nanoseconds that a step of two threads takes longer than the work of each; the usual ones if the pool
    is used by others, too.
    """
    pool = thread_pool.pool()
    if not pool.start(2):
        return Costs().waiting
    number = pool.mail["next"] + (1 + _ROUNDS) * (2 + _WAITS)  # of the next job, if there are no others
    job = object_cache.loops("runtime.workers", "idle")["idle"]
    alone, shared = (thread_pool.Task(job, slices, 1 + _WAITS, waits=1) for slices in (1, 2))
    work = _least(lambda: alone.run_alone(0))
    waiting = 1e9 * (_least(lambda: shared.run_shared(0)) - work) / _WAITS
    return waiting if pool.mail["next"] == number else Costs().waiting
