"""The masks of dropout and zoneout, made on the device."""

import math

import numpy as np

from rnnx.engines.gpu.device import Arena, Array, DeviceStream, DType
from rnnx.engines.gpu.kernel import declared, options, read

_THREADS = 128
_MOST_STEPS = 65535  # in the grid


def kept(
    stream: DeviceStream,
    key: Array,
    start: int,
    rate: float,
    shape: tuple[int, int, int],
    dtype: DType,
    value: float,
) -> Array:
    """Return a mask (T, m, n), 0 with probability `rate`, else `value`, of time steps from `start` on.

    `key` holds two integers on the device.
    """
    n, m, n_steps = shape
    kind, text = np.dtype(dtype), read("masks.cu")
    memory = Arena(stream, {"mask": ((n_steps, m, n), kind)})
    values = {
        "key": stream.address(key),
        "start": start,
        "least": math.ceil(float(np.float32(rate)) * 2**24),
        "value": int(np.asarray(value, kind).astype(np.float64).view(np.int64)),  # the bits of a number of this dtype
        "dst": memory.addresses["mask"],
        "n_steps": n_steps,
        "size": m * n,
    }
    blocks = -(-m * n // (8 * _THREADS)), min(n_steps, _MOST_STEPS)
    launch = stream.kernels((read("prelude.cuh") + text,), options(kind))
    launch("keep", blocks, (_THREADS, 1), declared(text, "keep").bind(values))
    return memory.array("mask")
