"""The choice of a micro-kernel, by family of processors and by a measurement on this one. Results do not depend on it.

With few rows, or for units that threads share, NV is the largest one: many sums hide the latency of multiplications,
and a micro-panel begins where a share does. With many rows, it is a question of how fast weights come from the L2 cache
(fewer vectors are shared by more rows), which was measured for the families in the table. The first process on a
machine measures both in some milliseconds; the object cache keeps the result. RNNX_AUTOTUNE=0 leaves it at the table.

Larger or smaller blocks, KC from 256 to 1024, make no consistent difference, as micro-kernels
prefetch; so they are constants.
"""

import os
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.gemm import MR
from rnnx.engines.cpu.codegen.ir import cpu_name, lanes, machine
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import addresses

# Processors on which three vectors by eight rows are faster than four by six.
_TALL = (
    *("skylake-avx512", "cascadelake", "cooperlake", "cannonlake", "icelake", "tigerlake", "rocketlake"),
    *("sapphirerapids", "emeraldrapids", "graniterapids"),
)
MANY_ROWS = 7  # at least
_CANDIDATES = (4, 3)
_CLEARLY = 0.97  # the time relative to that of the table's choice from which on another one wins
_ROWS, _TERMS, _VECTORS, _ROUNDS = (16, 32, 64), 256, 24, 7  # what is measured


def panel_vectors(group: int, rows: int = 0) -> int:
    """Return NV for columns in groups of vectors (the gates of a unit vector) and a usual number of rows.

    Without a number of rows, it is a divisor of `group` if possible, and micro-panels begin where four groups do.
    """
    widths = MR[machine().registers]
    widest = max(widths)
    if rows >= MANY_ROWS and widths.keys() >= set(_CANDIDATES) and _of_many_rows() == 3:
        return 3
    return widest - 1 if widest > 2 and group % widest and not group % (widest - 1) else widest


@lru_cache(maxsize=1)
def _of_many_rows() -> int:
    """Return NV for many rows."""
    usual = 3 if cpu_name().startswith(_TALL) else 4
    if not autotunes():
        return usual
    limits = (min(_CANDIDATES), max(_CANDIDATES))
    return object_cache.remembered("panel vectors", [limits], lambda: (_fastest(usual),))[0]


def autotunes() -> bool:
    """Return whether this machine may be measured."""
    return os.environ.get("RNNX_AUTOTUNE") != "0"


def _fastest(usual: int) -> int:
    """Return the NV that takes the least time, but the usual one if the difference is small."""
    calls = {nv: _products(nv) for nv in _CANDIDATES}
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for nv, call in calls.items():
            times[nv] = min(times[nv], seconds(call))
    best = min(times, key=times.__getitem__)
    return best if times[best] < _CLEARLY * times[usual] else usual


def seconds(call: Callable[[], None]) -> float:
    """Return the time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _products(nv: int) -> Callable[[], None]:
    """Return a function that makes the products to be measured."""
    dtype = np.dtype(np.float32)
    columns, item, most = _VECTORS * lanes(dtype), dtype.itemsize, max(_ROWS)
    name = f"product_{nv}"
    address = object_cache.emitted_by("codegen.gemm", "emit_product", dtype, nv, "")[name]
    product = leaves.python_function(leaves.PRODUCT, address)
    arrays = [np.ones(n, dtype) for n in (_TERMS * columns, most * _TERMS, most * columns)]

    def call() -> None:
        w, h, z = addresses(arrays)
        for rows in _ROWS:
            product(w, _VECTORS, 0, _VECTORS, _TERMS, h, _TERMS * item, item, rows, z, 0, z, columns * item, 0, 0, 0)

    return call
