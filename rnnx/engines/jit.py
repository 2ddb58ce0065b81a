"""The compiled engine for NumPy arrays: Numba runs the whole loop over time, BLAS its recurrent products.

It knows no cell. From a cell record it builds, once per cell and dtype:

* for every stage a *kernel* that runs the cell's own function on all elements of one step, with loads and
  stores written out for the number of gates, states and saved values (loops over tuples do not vectorise);
* a *chain* of the stages: product, kernel, next stage;
* the loop over time around the chain.

See `rnnx.engines` for the interface; T, m, n, G as there. Compilation takes seconds; `rnnx.warm_up` does it
ahead. All arrays inside are C-contiguous and writable, so that there is one specialisation only.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from rnnx._layout import StageWeights
from rnnx.cells import Cell, Stage
from rnnx.engines._jit_math import OPTIONS, inline, make_ops

Arrays = tuple[np.ndarray, ...]


class _NoAlias(CompilerBase):
    """Numba's pipeline, with the promise that no array that is written to overlaps another argument.

    Without it LLVM would have to check at run time, for some twenty arrays, and gives up: the loop stays
    scalar and is six times slower.
    """

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def _kernel(function: Callable[..., Any]) -> Any:
    return njit(function, nogil=True, pipeline_class=_NoAlias, **OPTIONS)


def _loop(function: Callable[..., Any]) -> Any:
    return njit(function, nogil=True, **OPTIONS)


def _load(item: str, count: int, arguments: str) -> Any:
    """A function of `arguments` that returns the tuple of ``item`` with ``{q}`` = 0 ... count - 1."""
    items = "".join(item.format(q=q) + ", " for q in range(count))
    scope: dict[str, Any] = {}
    exec(f"def load({arguments}):\n    return ({items})", scope)
    return inline(scope["load"])


def _each(statement: str, count: int, arguments: str, scope: dict[str, Any] | None = None) -> Any:
    """A function of `arguments` that runs ``statement`` for ``{q}`` = 0 ... count - 1."""
    body = "".join(f"    {statement.format(q=q)}\n" for q in range(count)) or "    pass\n"
    scope = dict(scope or {})
    exec(f"def each({arguments}):\n{body}", scope)
    return inline(scope["each"])


def _at(count: int) -> Any:
    """The slices of `count` stacked arrays at one step."""
    return _load("a[{q}][t]", count, "a, t")


def _row_helpers(count: int) -> tuple[Any, Any, Any, Any]:
    """(load, store, zero, copy) of one row of `count` arrays (m, n)."""
    return (
        _load("a[{q}][j, k]", count, "a, j, k"),
        _each("a[{q}][j, k] = v[{q}]", count, "a, j, k, v"),
        _each("a[{q}][j] = 0", count, "a, j"),
        _each("a[{q}][j] = b[{q}][j]", count, "a, b, j"),
    )


# --- forward -----------------------------------------------------------------------------------------------


def _forward_kernel(cell: Cell, i: int, ops: Any, recurrent_bias: bool) -> Any:
    """All elements of stage i of one step. Rows past their end keep the state the step began with."""
    stage, last = cell.stages[i], i == len(cell.stages) - 1
    n_in = len(cell.states if i == 0 else cell.stages[i - 1].out)
    n_gates, cell_forward = len(stage.gates), inline(stage.forward)
    load_zx = _load("z[j, {q}, k]", n_gates, "z, j, k")
    item = "z[j, {q}, k] + b[{q}, k]" if recurrent_bias else "z[j, {q}, k]"
    load_zh = _load(item, n_gates, "z, b, j, k")
    load_in, _, _, _ = _row_helpers(n_in)
    _, store_out, zero_out, copy_out = _row_helpers(len(stage.out))
    _, store_kept, zero_kept, _ = _row_helpers(len(stage.saved))

    @_kernel
    def kernel(t, lengths, zx, zh, bh, begin, s, out, kept):
        m, _, n = zx.shape
        for j in range(m):
            if t < lengths[j]:
                for k in range(n):
                    new, values = cell_forward(ops, load_zx(zx, j, k), load_zh(zh, bh, j, k), load_in(s, j, k))
                    store_out(out, j, k, new)
                    store_kept(kept, j, k, values)
            else:
                if last:
                    copy_out(out, begin, j)
                else:
                    zero_out(out, j)
                zero_kept(kept, j)

    return kernel


def _forward_chain(cell: Cell, i: int, ops: Any, recurrent_bias: tuple[bool, ...]) -> Any:
    """Stage i of one step and all after it."""
    kernel = _forward_kernel(cell, i, ops, recurrent_bias[i])
    kept_at, out_at = cell.saved_slices[i]

    if i == len(cell.stages) - 1:

        @_loop
        def chain(t, lengths, zx, wh_t, bh, zh, begin, s, end, saved):
            m, n_gates, n = zx[i].shape[1:]
            np.dot(s[0], wh_t[i], zh[i])
            kernel(t, lengths, zx[i][t], zh[i].reshape((m, n_gates, n)), bh[i], begin, s, end, saved[kept_at])
    else:
        rest = _forward_chain(cell, i + 1, ops, recurrent_bias)

        @_loop
        def chain(t, lengths, zx, wh_t, bh, zh, begin, s, end, saved):
            m, n_gates, n = zx[i].shape[1:]
            out = saved[out_at]
            np.dot(s[0], wh_t[i], zh[i])
            kernel(t, lengths, zx[i][t], zh[i].reshape((m, n_gates, n)), bh[i], begin, s, out, saved[kept_at])
            rest(t, lengths, zx, wh_t, bh, zh, begin, out, end, saved)

    return chain


def _forward_loop(cell: Cell, ops: Any, recurrent_bias: tuple[bool, ...]) -> Any:
    chain = _forward_chain(cell, 0, ops, recurrent_bias)
    states_at, saved_at = _at(len(cell.states)), _at(len(cell.saved))

    @_loop
    def loop(zx, wh_t, bh, zh, states, saved, saved_stride, lengths):
        for t in range(zx[0].shape[0]):
            s = states_at(states, t)
            chain(t, lengths, zx, wh_t, bh, zh, s, s, states_at(states, t + 1), saved_at(saved, t * saved_stride))

    return loop


# --- backward ----------------------------------------------------------------------------------------------


def _backward_kernel(cell: Cell, i: int, ops: Any) -> Any:
    """All elements of stage i of one step. Rows past their end pass the cotangent of the state through."""
    stage, first = cell.stages[i], i == 0
    n_in = len(cell.states if first else cell.stages[i - 1].out)
    n_gates, additive, cell_backward = len(stage.gates), stage.additive, inline(stage.backward)
    load_in, store_in, zero_in, copy_in = _row_helpers(n_in)
    load_out, _, _, _ = _row_helpers(len(stage.out))
    load_kept, _, _, _ = _row_helpers(len(stage.saved))
    store_dz = _each("dz[j, {q}, k] = v[{q}]", n_gates, "dz, j, k, v")

    @_kernel
    def kernel(t, lengths, d_end, d_out, s_prev, s_next, kept, dzx, dzh, d_in):
        m, _, n = dzx.shape
        for j in range(m):
            if t < lengths[j]:
                for k in range(n):
                    vx, vh, d = cell_backward(
                        ops, load_out(d_out, j, k), load_in(s_prev, j, k), load_out(s_next, j, k), load_kept(kept, j, k)
                    )
                    store_dz(dzx, j, k, vx)
                    if not additive:
                        store_dz(dzh, j, k, vh)
                    store_in(d_in, j, k, d)
            else:
                dzx[j] = 0
                if not additive:
                    dzh[j] = 0
                if first:
                    copy_in(d_in, d_end, j)
                else:
                    zero_in(d_in, j)

    return kernel


@_kernel
def _add(a, b):
    for j in range(a.shape[0]):
        for k in range(a.shape[1]):
            a[j, k] += b[j, k]


@_kernel
def _add_valid(a, b, t, lengths):
    for j in range(a.shape[0]):
        if t < lengths[j]:
            for k in range(a.shape[1]):
                a[j, k] += b[j, k]


def _backward_chain(cell: Cell, i: int, ops: Any) -> Any:
    """All stages after i of one step, then stage i. `mid` holds the cotangents between stages, laid out as
    cell.saved is."""
    kernel = _backward_kernel(cell, i, ops)
    kept_at, out_at = cell.saved_slices[i]

    if i == len(cell.stages) - 1:

        @_loop
        def chain(t, lengths, d_end, d_in, mid, wh, product, s, end, saved, dzx, dzh):
            kernel(t, lengths, d_end, d_end, s, end, saved[kept_at], dzx[i][t], dzh[i][t], d_in)
            np.dot(dzh[i][t].reshape((product.shape[0], -1)), wh[i], product)
            _add(d_in[0], product)
    else:
        rest = _backward_chain(cell, i + 1, ops)

        @_loop
        def chain(t, lengths, d_end, d_in, mid, wh, product, s, end, saved, dzx, dzh):
            out, d_out = saved[out_at], mid[out_at]
            rest(t, lengths, d_end, d_out, mid, wh, product, out, end, saved, dzx, dzh)
            kernel(t, lengths, d_end, d_out, s, out, saved[kept_at], dzx[i][t], dzh[i][t], d_in)
            np.dot(dzh[i][t].reshape((product.shape[0], -1)), wh[i], product)
            _add(d_in[0], product)

    return chain


def _backward_loop(cell: Cell, ops: Any) -> Any:
    chain = _backward_chain(cell, 0, ops)
    states_at, saved_at = _at(len(cell.states)), _at(len(cell.saved))
    statement = "add(ds[{q}], dS[{q}][t], t, lengths) if t < dS[{q}].shape[0] else None"
    add_outputs = _each(statement, len(cell.states), "ds, dS, t, lengths", {"add": _add_valid})

    @_loop
    def loop(dS, ds, ds_other, mid, wh, product, states, saved, dzx, dzh, lengths):
        for t in range(dzx[0].shape[0] - 1, -1, -1):
            add_outputs(ds, dS, t, lengths)
            s, end = states_at(states, t), states_at(states, t + 1)
            chain(t, lengths, ds, ds_other, mid, wh, product, s, end, saved_at(saved, t), dzx, dzh)
            ds, ds_other = ds_other, ds
        return ds

    return loop


# --- the engine ----------------------------------------------------------------------------------------------


class Compiled(NamedTuple):
    """The loops of one cell and dtype; forward by which stages have a recurrent bias."""

    forward: Callable[[tuple[bool, ...]], Any]
    backward: Any


_building = threading.RLock()


@lru_cache(maxsize=64)
def _build(cell: Cell, dtype: str) -> Compiled:
    ops = make_ops(getattr(np, dtype))
    return Compiled(lru_cache(maxsize=8)(lambda bias: _forward_loop(cell, ops, bias)), _backward_loop(cell, ops))


def _loops(cell: Cell, dtype: str) -> Compiled:
    with _building:  # lru_cache alone would let two threads build the same
        return _build(cell, dtype)


def compiled(cell: Cell, dtype: str) -> None:
    """Compile the loops of a cell now, by running them on one element."""
    one = np.zeros((1, 1), dtype)
    zx = tuple(np.zeros((1, 1, len(stage.gates), 1), dtype) for stage in cell.stages)

    def weights(stage: Stage) -> StageWeights:
        size = len(stage.gates)
        biased = any(gate.recurrent_bias for gate in stage.gates)
        return StageWeights(
            *(np.zeros(shape, dtype) for shape in ((size, 1), (size, 1), (size,))),
            bh=np.zeros(size, dtype) if biased else None,
        )

    w = tuple(weights(stage) for stage in cell.stages)
    s0 = tuple(one for _ in cell.states)
    S, K = forward(np, cell, zx, w, s0, None, True)
    backward(np, cell, tuple(None for _ in s0), s0, w, S, K, None)


def _own(a: np.ndarray) -> np.ndarray:
    """C-contiguous, aligned and writable: what the loops are compiled for."""
    return np.require(a, requirements=("C", "A", "W"))


def _steps(lengths: np.ndarray | None, m: int, n_steps: int) -> np.ndarray:
    return np.full(m, n_steps, np.int64) if lengths is None else np.ascontiguousarray(lengths, np.int64)


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
    states = tuple(np.empty((n_steps + 1, m, n), dtype) for _ in cell.states)
    for S, s in zip(states, s0, strict=True):
        S[0] = s
    # Without `keep` every step writes its saved values over those of the step before.
    saved = tuple(np.empty((n_steps if keep else 1, m, n), dtype) for _ in cell.saved)
    zh = tuple(np.empty((m, len(stage.gates) * n), dtype) for stage in cell.stages)
    wh_t = tuple(w.wh.T for w in weights)
    recurrent_bias = tuple(w.bh is not None for w in weights)
    bh = tuple(np.zeros((1, 1), dtype) if w.bh is None else w.bh.reshape(-1, n) for w in weights)
    loop = _loops(cell, str(dtype)).forward(recurrent_bias)
    zx = tuple(_own(z) for z in Zx)
    loop(zx, wh_t, bh, zh, states, saved, 1 if keep else 0, _steps(lengths, m, n_steps))
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
    shapes = tuple((n_steps, m, len(stage.gates), n) for stage in cell.stages)
    dzx = tuple(np.empty(shape, dtype) for shape in shapes)
    dzh = tuple(
        zx if stage.additive else np.empty(shape, dtype)
        for stage, zx, shape in zip(cell.stages, dzx, shapes, strict=True)
    )
    ds = tuple(np.array(d) for d in dlast)
    outputs = tuple(np.empty((0, m, n), dtype) if d is None else _own(d) for d in dS)
    ds0 = _loops(cell, str(dtype)).backward(
        outputs,
        ds,
        tuple(np.empty_like(d) for d in ds),
        tuple(np.empty((m, n), dtype) for _ in cell.saved),
        tuple(w.wh for w in weights),
        np.empty((m, n), dtype),
        tuple(_own(s) for s in S),
        tuple(_own(k) for k in K),
        dzx,
        dzh,
        _steps(lengths, m, n_steps),
    )
    return dzx, dzh, ds0
