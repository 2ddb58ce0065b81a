"""The schedule, once for all cells: one input product over all steps, the engine's loop, public views; and back.

It knows neither a library nor a cell. Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of
a stage; capital letters are stacked over time.
"""

import math
from collections.abc import Mapping
from typing import Any

from rnnx import _check, _layout, engines
from rnnx import _namespace as ns
from rnnx._caches import Caches, Record, Steps, from_steps
from rnnx._namespace import Array
from rnnx.cells import Cell


def run_forward(cell: Cell, call: _check.Call, engine: str, keep: bool) -> Record:
    """The forward pass in internal layout."""
    xp = call.xp
    X = _layout.to_time_major(xp, call.x, own=keep and call.lengths is None)  # what becomes of x is not ours
    n_steps, m, n_x = X.shape
    if call.lengths is not None:  # zero past the end: not even NaN there may reach a weight gradient
        X = xp.where(_layout.valid_steps(xp, call.lengths, n_steps), X, xp.zeros_like(X))
    weights = _layout.pack(xp, cell, call.parameters)
    flat = xp.reshape(X, (n_steps * m, n_x))
    runner = engines.load(engine)
    Zx = tuple(
        xp.reshape(runner.matmul(xp, flat, xp.matrix_transpose(w.wx), w.b), (n_steps, m, len(stage.gates), call.n_a))
        for stage, w in zip(cell.stages, weights, strict=True)
    )
    s0 = tuple(ns.contiguous(xp, xp.matrix_transpose(s)) for s in call.s0)
    S, K = runner.forward(xp, cell, Zx, weights, s0, call.lengths, keep)
    return Record(xp, call.dtype, X, weights, S, K if keep else None, call.lengths)


def forward(
    cell: Cell, call: _check.Call, x: Array, parameters: Mapping[str, Array], keep: bool
) -> tuple[tuple[Array, ...], Caches]:
    """States of all steps in public layout, each (n_a, m, T_x), and the caches.

    `x` and `parameters` are the caller's own, to be shown in the caches.
    """
    xp = call.xp
    engine = engines.select(xp, n_steps=call.x.shape[2], m=call.x.shape[1])
    record = run_forward(cell, call, engine, keep)
    outputs = []
    for S in record.states:
        a = S[1:, :, :]
        if call.lengths is not None:
            a = xp.where(_layout.valid_steps(xp, call.lengths, a.shape[0]), a, xp.zeros_like(a))
        elif keep:
            a = ns.owned_copy(xp, a)  # the caller may write to it, the backward pass must not notice
        outputs.append(_layout.to_public(xp, a))
    if not keep:  # all that is left to ask for is the final state; let go of the rest
        record.states = tuple(ns.owned_copy(xp, S[-1:, :, :]) for S in record.states)
        record.x = ns.owned_copy(xp, record.x[:, :0, :0])
    return tuple(outputs), Caches(cell, engine, record, x, parameters)


def resolve(cell: Cell, caches: Any) -> tuple[Record, Caches | None]:
    """The record behind what a caller passes as caches: ours, our two halves, or a hand-built list."""
    if isinstance(caches, Caches):
        return caches.record_for(cell), caches
    if not isinstance(caches, tuple | list) or len(caches) != 2:
        raise TypeError(f"`caches` must be what {cell.name}_forward returned, or ([cache, ...], x)")
    steps, x = caches
    if isinstance(steps, Steps):
        return resolve(cell, steps.caches)
    if x is not None:
        ns.common_namespace({"x": x})
        if x.ndim != 3 or x.shape[2] != len(_check.check_steps(cell, steps)):
            raise ValueError(
                f"`caches` must hold one cache per step of `x`, of shape {tuple(x.shape)}; got {len(steps)}"
            )
    return from_steps(cell, steps, _replay), None


def _replay(cell: Cell, call: _check.Call) -> tuple[Array, ...]:
    saved = run_forward(cell, call, "plain", keep=True).saved
    assert saved is not None
    return saved


def backward(
    record: Record, cell: Cell, dstates: tuple[Array | None, ...], dfinal: tuple[Array | None, ...], n_steps: int
) -> tuple[Array, tuple[Array, ...], dict[str, Array]]:
    """Gradients of the first `n_steps` steps.

    Parameters
    ----------
    record : Record
    cell : Cell
    dstates : tuple of array (n_a, m, n_steps) or None
        Cotangents of the states of all steps, in the order of ``cell.states``.
    dfinal : tuple of array (n_a, m) or None
        Cotangents of the final states.
    n_steps : int

    Returns
    -------
    dx : array, shape (n_x, m, n_steps)
    ds0 : tuple of array, shape (n_a, m)
    gradients : dict
        "d" + key for every parameter of the recurrent part.
    """
    xp = record.xp
    assert record.saved is not None
    X, S = record.x[:n_steps, :, :], tuple(s[: n_steps + 1, :, :] for s in record.states)
    K = tuple(k[:n_steps, :, :] for k in record.saved)
    dS = tuple(None if d is None else _layout.to_time_major(xp, d) for d in dstates)
    dlast = tuple(
        xp.zeros_like(s[0, :, :]) if d is None else ns.owned_copy(xp, xp.matrix_transpose(d))
        for d, s in zip(dfinal, S, strict=True)
    )
    runner = engines.load(engines.select(xp, n_steps=n_steps, m=X.shape[1]))
    dZx, dZh, ds0 = runner.backward(xp, cell, dS, dlast, record.weights, S, K, record.lengths)

    dX: Any = None
    gradients = []
    operand = S[0][:n_steps, :, :]
    for stage, (_, out_at) in enumerate(cell.saved_slices):
        weights = record.weights[stage]
        dzx, dzh = _rows(xp, dZx[stage]), _rows(xp, dZh[stage])
        through = runner.matmul(xp, dzx, weights.wx)
        dX = through if dX is None else dX + through
        gradients.append(
            _layout.StageWeights(
                wx=runner.matmul(xp, xp.matrix_transpose(dzx), _rows(xp, X)),
                wh=runner.matmul(xp, xp.matrix_transpose(dzh), _rows(xp, operand)),
                b=xp.sum(dzx, axis=0),
                bh=None if weights.bh is None else xp.sum(dzh, axis=0),
            )
        )
        if K[out_at]:
            operand = K[out_at][0]  # what the next stage's weights multiply
    dx = _layout.to_public(xp, xp.reshape(dX, X.shape))
    return dx, tuple(xp.matrix_transpose(d) for d in ds0), _layout.unpack(xp, cell, gradients)


def _rows(xp: Any, a: Array) -> Array:
    """(T, m, ...) to (T m, the rest)."""
    return xp.reshape(a, (a.shape[0] * a.shape[1], math.prod(a.shape[2:])))
