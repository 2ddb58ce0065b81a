"""The reference engine: a Python loop over the functions of any array library, without writing in place.

It runs under ``jax.jit``, on read-only and on strict arrays. See `rnnx.engines` for the interface.
"""

from collections.abc import Sequence
from typing import Any

from rnnx._layout import StageWeights, valid_steps
from rnnx._namespace import Array
from rnnx._ops import Ops, array_ops
from rnnx.cells import Cell

Arrays = tuple[Array, ...]


def matmul(xp: Any, a: Array, b: Array, bias: Array | None = None) -> Array:
    """See `rnnx.engines`."""
    del xp
    return a @ b if bias is None else a @ b + bias


def forward(
    xp: Any,
    cell: Cell,
    Zx: Arrays,
    weights: tuple[StageWeights, ...],
    s0: Arrays,
    lengths: Array | None,
    keep: bool,
) -> tuple[Arrays, Arrays]:
    """See `rnnx.engines`."""
    ops = array_ops(xp)
    n_steps, m, _, n = Zx[0].shape
    valid = None if lengths is None else valid_steps(xp, lengths, n_steps)
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
    dlast: Arrays,
    weights: tuple[StageWeights, ...],
    S: Arrays,
    K: Arrays,
    lengths: Array | None,
) -> tuple[Arrays, Arrays, Arrays]:
    """See `rnnx.engines`."""
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
