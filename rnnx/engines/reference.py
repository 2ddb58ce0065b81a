"""The reference engine: a Python loop over the functions of any array library, without writing in place.

It runs under ``jax.jit``, on read-only and on strict arrays. See `rnnx.engines` for the interface.
"""

import math
from collections.abc import Sequence
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import to_time_major, valid_steps
from rnnx.cells import Cell
from rnnx.cells.parameters import StageGradients, StageWeights
from rnnx.cells.vocabulary import Ops, array_ops

Arrays = tuple[Array, ...]


def forward(
    xp: Any,
    cell: Cell,
    x: Array,
    weights: tuple[StageWeights, ...],
    s0: Arrays,
    lengths: Array | None,
    keep: bool,
) -> tuple[Array, Arrays, Arrays, Arrays, tuple[StageWeights, ...]]:
    """See `rnnx.engines`."""
    if keep:  # what becomes of the parameters is not ours
        weights = tuple(w.map(lambda a: ns.owned_copy(xp, a)) for w in weights)
    X = to_time_major(xp, x, own=keep and lengths is None)  # what becomes of x is not ours
    n_steps, m = X.shape[:2]
    valid = None if lengths is None else valid_steps(xp, lengths, n_steps)
    if valid is not None and X.ndim == 3:  # zero past the end: not even NaN there may reach a weight gradient
        X = xp.where(valid, X, xp.zeros_like(X))
    Zx = tuple(
        xp.reshape(_times_inputs(xp, w, X) + w.b, (n_steps, m, len(stage.gates), s0[0].shape[0]))
        for stage, w in zip(cell.stages, weights, strict=True)
    )
    S, K = _loop(xp, cell, Zx, weights, tuple(map(xp.matrix_transpose, s0)), valid, keep)
    outputs = tuple(s[1:, :, :] for s in S)
    if valid is not None:
        outputs = tuple(xp.where(valid, a, xp.zeros_like(a)) for a in outputs)
    elif keep:
        outputs = tuple(ns.owned_copy(xp, a) for a in outputs)
    return X, S, K, outputs, weights


def _times_inputs(xp: Any, w: StageWeights, X: Array) -> Array:
    """W_x x of all steps, (T m, G n); of an index, a column of W_x."""
    columns = xp.matrix_transpose(w.wx)
    return xp.take(columns, xp.reshape(X, (-1,)), axis=0) if X.ndim == 2 else _rows(xp, X) @ columns


def _loop(
    xp: Any,
    cell: Cell,
    Zx: Arrays,
    weights: tuple[StageWeights, ...],
    s0: Arrays,
    valid: Array | None,
    keep: bool,
) -> tuple[Arrays, Arrays]:
    """The loop over time, from the input sides Zx of all steps, per stage (T, m, G, n)."""
    ops = array_ops(xp)
    n_steps, m, _, n = Zx[0].shape
    wh_t = [xp.matrix_transpose(w.wh) for w in weights]
    states, saved = [s0], []
    for t in range(n_steps):
        s, values = states[-1], []
        for i, stage in enumerate(cell.stages):
            zh = s[0] @ wh_t[i]
            if weights[i].bh is not None:
                zh = zh + weights[i].bh
            zh = xp.reshape(zh, (m, len(stage.gates), n))
            s, kept = stage.forward(ops, _gates(Zx[i][t, ...]), _gates(zh), s)
            values += [*kept, *(s if i < len(cell.stages) - 1 else ())]
        if valid is not None:
            here = valid[t, ...]
            s = tuple(xp.where(here, new, old) for new, old in zip(s, states[-1], strict=True))
            values = [xp.where(here, v, xp.zeros_like(v)) for v in values]
        states.append(s)
        if keep:
            saved.append(values)
    S = tuple(xp.stack(list(column)) for column in zip(*states, strict=True))
    K = tuple(_stack(xp, [v[k] for v in saved], like=s0[0]) for k in range(len(cell.saved)))
    return S, K


def backward(
    xp: Any,
    cell: Cell,
    dS: tuple[Array | None, ...],
    dlast: tuple[Array | None, ...],
    weights: tuple[StageWeights, ...],
    X: Array,
    S: Arrays,
    K: Arrays,
    lengths: Array | None,
) -> tuple[Array | None, Arrays, list[StageGradients]]:
    """See `rnnx.engines`."""
    dS = tuple(None if d is None else to_time_major(xp, d) for d in dS)
    ends = tuple(
        xp.zeros_like(s[0, :, :]) if d is None else ns.owned_copy(xp, xp.matrix_transpose(d))
        for d, s in zip(dlast, S, strict=True)
    )
    dZx, dZh, ds0 = _loop_back(xp, cell, dS, ends, weights, S, K, lengths)
    indices, shape, dX = X.ndim == 2, X.shape, None
    # The standard has no function that adds to chosen rows, hence the one-hot rows themselves.
    rows = _one_hot(xp, X, weights[0].wx) if indices else _rows(xp, X)
    gradients = []
    operand = S[0][: shape[0], :, :]
    for stage, (_, out_at) in enumerate(cell.saved_slices):
        w, dzx, dzh = weights[stage], _rows(xp, dZx[stage]), _rows(xp, dZh[stage])
        if not indices:
            through = dzx @ w.wx
            dX = through if dX is None else dX + through
        parts = (xp.matrix_transpose(dzh) @ _rows(xp, operand), xp.matrix_transpose(dzx) @ rows)
        dbh = None if w.bh is None else xp.sum(dzh, axis=0)
        gradients.append(StageGradients(xp.concat(parts, axis=1), xp.sum(dzx, axis=0), dbh))
        if K[out_at]:
            operand = K[out_at][0]  # what the next stage's weights multiply
    return None if dX is None else xp.reshape(dX, shape), ds0, gradients


def _one_hot(xp: Any, X: Array, wx: Array) -> Array:
    """Rows (T m, n_x) with a one at each index of X; dtype and device are those of `wx` (G n, n_x)."""
    classes = xp.arange(wx.shape[1], dtype=X.dtype, device=ns.device(X))
    return xp.astype(xp.reshape(X, (-1, 1)) == classes, wx.dtype)


def _rows(xp: Any, a: Array) -> Array:
    """(T, m, ...) to (T m, the rest)."""
    return xp.reshape(a, (a.shape[0] * a.shape[1], math.prod(a.shape[2:])))


def _loop_back(
    xp: Any,
    cell: Cell,
    dS: tuple[Array | None, ...],
    dlast: Arrays,
    weights: tuple[StageWeights, ...],
    S: Arrays,
    K: Arrays,
    lengths: Array | None,
) -> tuple[Arrays, Arrays, Arrays]:
    """Cotangents of zx and zh, per stage (T, m, G, n), and of the initial states, per state (m, n)."""
    ops = array_ops(xp)
    n_steps = S[0].shape[0] - 1
    valid = None if lengths is None else valid_steps(xp, lengths, n_steps)
    ds = dlast
    steps = []
    for t in range(n_steps - 1, -1, -1):
        dout = tuple(None if D is None else D[t, ...] for D in dS)
        if valid is not None:  # what lies past the end is no output
            dout = tuple(None if d is None else xp.where(valid[t, ...], d, xp.zeros_like(d)) for d in dout)
        ds = tuple(d if more is None else d + more for d, more in zip(ds, dout, strict=True))
        values = tuple(k[t, ...] for k in K)
        before, after = tuple(s[t, ...] for s in S), tuple(s[t + 1, ...] for s in S)
        dzx, dzh, ds_prev = _step_backward(xp, ops, cell, ds, weights, before, after, values)
        if valid is not None:
            here = valid[t, ...]
            ds_prev = tuple(xp.where(here, new, old) for new, old in zip(ds_prev, ds, strict=True))
            dzx, dzh = _zero_past_end(xp, here, dzx), _zero_past_end(xp, here, dzh)
        ds = ds_prev
        steps.append((dzx, dzh))
    steps.reverse()
    like = [xp.stack([S[0][0, ...]] * len(stage.gates), axis=1) for stage in cell.stages]
    dZx = tuple(_stack(xp, [dzx[i] for dzx, _ in steps], like[i]) for i in range(len(like)))
    dZh = tuple(
        dZx[i] if stage.additive else _stack(xp, [dzh[i] for _, dzh in steps], like[i])
        for i, stage in enumerate(cell.stages)
    )
    return dZx, dZh, ds


def _step_backward(
    xp: Any,
    ops: Ops,
    cell: Cell,
    ds: Arrays,
    weights: tuple[StageWeights, ...],
    before: Arrays,
    after: Arrays,
    values: Arrays,
) -> tuple[Arrays, Arrays, Arrays]:
    """The stages of one step in reverse: (dzx, dzh per stage), and the cotangent of the state before it."""
    dZx: Arrays = ()
    dZh: Arrays = ()
    for i in range(len(cell.stages) - 1, -1, -1):
        stage, (kept_at, out_at) = cell.stages[i], cell.saved_slices[i]
        s_prev = values[cell.saved_slices[i - 1][1]] if i else before
        dzx, dzh, ds = stage.backward(ops, ds, s_prev, values[out_at] or after, values[kept_at])
        dZx = (xp.stack(list(dzx), axis=1), *dZx)
        dZh = (dZx[0] if stage.additive else xp.stack(list(dzh), axis=1), *dZh)
        m, n_gates, n = dZh[0].shape
        ds = (ds[0] + xp.reshape(dZh[0], (m, n_gates * n)) @ weights[i].wh, *ds[1:])
    return dZx, dZh, ds


def _zero_past_end(xp: Any, here: Array, dz: Arrays) -> Arrays:
    return tuple(xp.where(xp.expand_dims(here, axis=2), d, xp.zeros_like(d)) for d in dz)


def _gates(z: Array) -> Arrays:
    """(m, G, n) to G arrays (m, n)."""
    return tuple(z[:, g, :] for g in range(z.shape[1]))


def _stack(xp: Any, arrays: Sequence[Array], like: Array) -> Array:
    """Stack over time; no step at all gives an empty array of entries like `like`."""
    return xp.stack(list(arrays)) if arrays else xp.stack([like])[:0, ...]


class Stepper:
    """See `rnnx.engines`."""

    def __init__(self, xp: Any, cell: Cell, weights: tuple[StageWeights, ...], s0: Arrays) -> None:
        self.xp, self.cell, self.states = xp, cell, s0
        self.weights = tuple(w.map(lambda a: ns.owned_copy(xp, a)) for w in weights)

    def step(self, xt: Array) -> Arrays:
        """See `rnnx.engines`."""
        xp, ops = self.xp, array_ops(self.xp)
        s = tuple(map(xp.matrix_transpose, self.states))
        x, (m, n) = xp.matrix_transpose(xt), s[0].shape
        for stage, w in zip(self.cell.stages, self.weights, strict=True):
            zx = xp.reshape(x @ xp.matrix_transpose(w.wx) + w.b, (m, len(stage.gates), n))
            zh = s[0] @ xp.matrix_transpose(w.wh)
            zh = xp.reshape(zh if w.bh is None else zh + w.bh, zx.shape)
            s, _ = stage.forward(ops, _gates(zx), _gates(zh), s)
        self.states = tuple(map(xp.matrix_transpose, s))
        return self.states

    def set(self, states: Arrays) -> None:
        """See `rnnx.engines`."""
        self.states = states


def matmul(xp: Any, a: Array, b: Array, bias: Array | None = None) -> Array:
    """See `rnnx.engines`."""
    del xp
    result = a @ b
    return result if bias is None else result + bias
