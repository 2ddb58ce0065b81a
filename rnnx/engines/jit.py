"""The compiled engine for NumPy arrays: Numba runs the whole loop over time.

What is compiled stands in `rnnx.engines._jit_loops`; here it is built once per cell and dtype, and run on
slices of the batch. See `rnnx.engines` for the interface; T, m, n, G as there. Compilation takes seconds;
`rnnx.warm_up` does it ahead.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx._layout import StageWeights
from rnnx.cells import Cell
from rnnx.engines._jit_loops import backward_loop, forward_loop
from rnnx.engines._jit_math import make_ops
from rnnx.engines._memory import empty
from rnnx.engines._threads import run_slices
from rnnx.engines._tile import make_product, pack, padded_columns

Arrays = tuple[np.ndarray, ...]

# Below this many multiplications a call of the BLAS is shorter than the packing (and wakes no thread of its own).
_SMALL = 100_000


class _Loops(NamedTuple):
    """The compiled functions of one cell and dtype; forward by which stages have a recurrent bias."""

    forward: Callable[[tuple[bool, ...]], Any]
    backward: Any


_building = threading.RLock()
_local = threading.local()


@lru_cache(maxsize=64)
def _build(cell: Cell, scalar: Any) -> _Loops:
    ops, product = make_ops(scalar), make_product(scalar)
    forward = lru_cache(maxsize=8)(lambda bias: forward_loop(cell, ops, product, bias))
    return _Loops(forward, backward_loop(cell, ops, product))


def _loops(cell: Cell, dtype: np.dtype) -> _Loops:
    with _building:  # lru_cache alone would let two threads build the same
        scalar: Any = dtype.type
        return _build(cell, scalar)


def compile_ahead(cell: Cell, dtype: str) -> None:
    """Compile the loops of a cell now, by running them on one element."""
    zx = tuple(np.zeros((1, 1, len(stage.gates), 1), dtype) for stage in cell.stages)
    s0 = tuple(np.zeros((1, 1), dtype) for _ in cell.states)
    plain = tuple(StageWeights(*(np.zeros((z.shape[2], 1), dtype),) * 2, b=z[0, 0, :, 0], bh=None) for z in zx)
    variants = [plain]
    if cell.optional_keys:
        variants.append(tuple(replace(w, bh=w.b) for w in plain))
    for weights in variants:
        S, K = forward(np, cell, zx, weights, s0, None, True)
        backward(np, cell, tuple(None for _ in s0), s0, weights, S, K, None)
    _multiply(np.ones((2, 2), dtype), np.ones((2, 2), dtype), None)


def _own(a: np.ndarray) -> np.ndarray:
    """C-contiguous, aligned and writable: what the loops are compiled for."""
    flags = a.flags
    return a if flags.c_contiguous and flags.aligned and flags.writeable else np.array(a, order="C")


def _product(dtype: np.dtype) -> Any:
    """The compiled product of a dtype."""
    scalar: Any = dtype.type
    with _building:
        return make_product(scalar)


def _flat(a: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A matrix as a flat array without a copy, if it or its transpose is in C order, and its two strides."""
    if a.T.flags.c_contiguous and not a.flags.c_contiguous:
        return _own(a.T).reshape(-1), 1, a.shape[0]
    return _own(a).reshape(-1), a.shape[1], 1


def _pack(w: np.ndarray, slot: int = 0) -> np.ndarray:
    """Weights (K, C) as the tile wants them, in memory of this thread that the next call for the slot reuses.

    Fresh memory costs a page fault for every 4 KB: as much as the packing itself, and more.
    """
    size = w.shape[0] * padded_columns(w.dtype.type, w.shape[1])
    key = f"{w.dtype.char}{slot}"
    kept = _local.__dict__.setdefault(key, np.empty(0, w.dtype))
    if kept.size < size:
        kept = _local.__dict__[key] = np.empty(size, w.dtype)
    pack(w, kept)
    return kept


def matmul(xp: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """See `rnnx.engines`."""
    del xp
    if a.shape[0] * b.size < _SMALL:
        return a @ b if bias is None else a @ b + bias
    return _multiply(a, b, bias)


def _multiply(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    (rows, n_k), n_c = a.shape, b.shape[1]
    dtype = a.dtype
    product, packed, (flat, ld, stride) = _product(dtype), _pack(b), _flat(a)
    out = empty((rows, padded_columns(dtype.type, n_c)), dtype)
    if bias is not None:
        out[:, :n_c] = bias
        out[:, n_c:] = 0

    def run(r0: int, r1: int) -> None:
        product(packed, flat, r0 * ld, ld, stride, n_k, r1 - r0, out, r0, bias is not None)

    run_slices(run, rows, products=rows * n_k * n_c)
    return out if out.shape[1] == n_c else np.ascontiguousarray(out[:, :n_c])


def _steps(lengths: np.ndarray | None, m: int, n_steps: int) -> np.ndarray:
    return np.full(m, n_steps, np.int64) if lengths is None else np.array(lengths, np.int64)


def forward(
    xp: Any,
    cell: Cell,
    Zx: Arrays,
    weights: tuple[StageWeights, ...],
    s0: Arrays,
    lengths: np.ndarray | None,
    keep: bool,
) -> tuple[Arrays, Arrays]:
    """See `rnnx.engines`."""
    del xp
    n_steps, m, _, n = Zx[0].shape
    dtype = Zx[0].dtype
    loops = _loops(cell, dtype)
    with _building:
        loop = loops.forward(tuple(w.bh is not None for w in weights))
    packed = tuple(_pack(w.wh.T, slot) for slot, w in enumerate(weights))
    bh = tuple(np.zeros((1, 1), dtype) if w.bh is None else w.bh.reshape(-1, n) for w in weights)
    states = tuple(empty((n_steps + 1, m, n), dtype) for _ in cell.states)
    for S, s in zip(states, s0, strict=True):
        S[0] = s
    # Without `keep` every step writes its saved values over those of the step before.
    saved = tuple(empty((n_steps if keep else 1, m, n), dtype) for _ in cell.saved)
    zx, steps = tuple(_own(z) for z in Zx), _steps(lengths, m, n_steps)
    columns = tuple(padded_columns(dtype.type, w.wh.shape[0]) for w in weights)

    def run(j0: int, j1: int) -> None:
        zh = tuple(np.empty((j1 - j0, c), dtype) for c in columns)
        loop(j0, j1, zx, packed, bh, zh, states, saved, 1 if keep else 0, steps)

    run_slices(run, m, products=n_steps * m * n * sum(columns))
    return states, saved


def backward(
    xp: Any,
    cell: Cell,
    dS: tuple[np.ndarray | None, ...],
    dlast: Arrays,
    weights: tuple[StageWeights, ...],
    S: Arrays,
    K: Arrays,
    lengths: np.ndarray | None,
) -> tuple[Arrays, Arrays, Arrays]:
    """See `rnnx.engines`."""
    del xp
    n_steps, m, n = S[0].shape[0] - 1, S[0].shape[1], S[0].shape[2]
    dtype = S[0].dtype
    loops = _loops(cell, dtype)
    packed = tuple(_pack(w.wh, slot) for slot, w in enumerate(weights))
    shapes = tuple((n_steps, m, len(stage.gates), n) for stage in cell.stages)
    dzx = tuple(empty(shape, dtype) for shape in shapes)
    dzh = tuple(
        zx if stage.additive else empty(shape, dtype) for stage, zx, shape in zip(cell.stages, dzx, shapes, strict=True)
    )
    ds = tuple(np.array(d, order="C") for d in dlast)
    ds_other = tuple(np.empty_like(d) for d in ds)
    outputs = tuple(np.empty((0, m, n), dtype) if d is None else _own(d) for d in dS)
    mid = tuple(np.empty((m, n), dtype) for _ in cell.saved)
    states, saved, steps = tuple(map(_own, S)), tuple(map(_own, K)), _steps(lengths, m, n_steps)

    def run(j0: int, j1: int) -> None:
        da = np.empty((j1 - j0, padded_columns(dtype.type, n)), dtype)
        loops.backward(j0, j1, outputs, ds, ds_other, mid, packed, da, states, saved, dzx, dzh, steps)

    run_slices(run, m, products=n_steps * m * n * n * len(cell.gates))
    return dzx, dzh, ds if n_steps % 2 == 0 else ds_other
