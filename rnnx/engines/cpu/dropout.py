"""The masks of dropout, drawn and applied by compiled code. Threads share large ones, with the same bits.

Dimensions: n features, m examples, T steps.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.engines.cpu import kernels
from rnnx.engines.cpu.descriptor.fields import MASKS
from rnnx.engines.cpu.kernels import DTYPES
from rnnx.engines.cpu.operations import FEW, run_shared
from rnnx.engines.cpu.runtime.buffer_pool import address, empty

_COST = 4  # of a random number, in numbers that are read or written in the same time


def _run(name: str, rows: np.ndarray, value: float, *of_numbers: int, source: int = 0, bits: int = 0) -> None:
    """Run a kernel that writes to rows (T, m, n); `of_numbers` say which random numbers to draw, and when to keep."""
    key, start, least = of_numbers or (0, 0, 0)
    kernel, number, (n_steps, m, n) = kernels.mask(name, rows.dtype), np.array([value], np.float64), rows.shape
    arguments = key, start, n_steps, m * n, least, address(number), address(rows), source, bits
    if rows.size * _COST < FEW:
        kernel.run(*arguments)
    else:
        record = np.array((kernel.address, 0, 0, rows.itemsize, *arguments), MASKS)
        run_shared("mask", record, n_steps, rows.size * _COST)


def _least(rate: float) -> int:
    """Return the least random integer for which a number is kept."""
    return math.ceil(float(np.float32(rate)) * 2**24)


def kept(
    key: np.ndarray, start: int, rate: float, shape: tuple[int, int, int], like: np.ndarray, value: float = 1.0
) -> np.ndarray:
    """Return a mask (n, m, T) of the dtype of an array; see `rnnx.engines.protocol.Engine`."""
    out = empty(shape[::-1], like.dtype if like.dtype in DTYPES else np.dtype(np.float32))
    _run("mask", out, value, address(key), start, _least(rate))
    return (out if out.dtype == like.dtype else out.astype(like.dtype)).T


@ignore_harmless_errors
def dropped(
    key: np.ndarray, start: int, rate: float, x: np.ndarray, value: float
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]] | None:
    """Return x (n, m, T), which may be overwritten, with dropout, and what does the same to its cotangent; see
    `rnnx.engines.protocol.Engine`.

    One bit per number says whether it is kept.
    """
    if x.dtype not in DTYPES:
        return None
    rows = _rows(x, x.dtype)
    n_steps, m, n = rows.shape
    bits = np.empty((n_steps, -(-m * n // 8)), np.uint8)
    _run("drop", rows, value, address(key), start, _least(rate), source=address(rows), bits=address(bits))
    return rows.T, partial(_dropped_again, bits, x.dtype.type(value))


def _rows(a: np.ndarray, dtype: Any) -> np.ndarray:
    """Return the rows (T, m, n) of an array (n, m, T): its own, if possible."""
    flags = a.flags
    is_ready = flags.f_contiguous and flags.writeable and flags.aligned and a.dtype == dtype
    return a.T if is_ready else np.array(a.T, dtype, order="C")


@ignore_harmless_errors
def _dropped_again(bits: np.ndarray, value: Any, d: np.ndarray) -> np.ndarray:
    """Return a cotangent, which may be overwritten, with the dropout of these bits: its product with `value` or 0."""
    rows = _rows(d, np.promote_types(d.dtype, value.dtype))
    _run("drop_again", rows, float(value), source=address(rows), bits=address(bits))
    return rows.T
