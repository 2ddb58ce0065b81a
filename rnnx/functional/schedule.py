"""The schedule, once for all cells: choose the engine, keep what a backward pass needs, show public views; and back.

It knows neither a library nor a cell. Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of
a stage; capital letters are stacked over time.
"""

from collections.abc import Mapping
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core import layout
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.cells.parameters import pack, unpack
from rnnx.functional import arguments
from rnnx.functional.caches import Caches, Record, Steps, from_steps


def run_forward(cell: Cell, call: arguments.Call, engine: str, keep: bool) -> tuple[Record, tuple[Array, ...]]:
    """The forward pass in internal layout: what a backward pass needs, and the caller's states (T, m, n)."""
    xp, runner = call.xp, engines.load(engine)
    weights = pack(xp, cell, call.parameters)
    X, S, K, outputs, weights = runner.forward(xp, cell, call.x, weights, call.s0, call.lengths, keep)
    return Record(xp, call.dtype, X, weights, S, K if keep else None, call.lengths), outputs


def forward(
    cell: Cell, call: arguments.Call, x: Array, parameters: Mapping[str, Array], keep: bool
) -> tuple[tuple[Array, ...], Caches]:
    """States of all steps in public layout, each (n_a, m, T_x), and the caches.

    `x` and `parameters` are the caller's own, to be shown in the caches.
    """
    xp = call.xp
    engine = engines.select(xp, n_steps=call.x.shape[-1], m=call.x.shape[-2])
    record, outputs = run_forward(cell, call, engine, keep)
    if not keep:  # all that is left to ask for is the final state; let go of the rest
        record.states = tuple(ns.owned_copy(xp, S[-1:, :, :]) for S in record.states)
        record.x = xp.zeros_like(record.x[:, :0, ...])
        record.weights = ()
    return tuple(layout.to_public(xp, a) for a in outputs), Caches(cell, engine, record, x, parameters)


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
        if len(arguments.check_steps(cell, steps)) != (x.shape[2] if x.ndim == 3 else -1):
            raise ValueError(
                f"`caches` must hold one cache per step of `x`, of shape {tuple(x.shape)}; got {len(steps)}"
            )
    return from_steps(cell, steps, _replay), None


def _replay(cell: Cell, call: arguments.Call) -> tuple[Array, ...]:
    saved = run_forward(cell, call, "reference", keep=True)[0].saved
    assert saved is not None
    return saved


def backward(
    record: Record, cell: Cell, dstates: tuple[Array | None, ...], dfinal: tuple[Array | None, ...], n_steps: int
) -> tuple[Array | None, tuple[Array, ...], dict[str, Array]]:
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
    dx : array, shape (n_x, m, n_steps), or None if the inputs are indices
    ds0 : tuple of array, shape (n_a, m)
    gradients : dict
        "d" + key for every parameter of the recurrent part.
    """
    xp = record.xp
    assert record.saved is not None
    X, S = record.x[:n_steps, ...], tuple(s[: n_steps + 1, :, :] for s in record.states)
    K = tuple(k[:n_steps, :, :] for k in record.saved)
    runner = engines.load(engines.select(xp, n_steps=n_steps, m=X.shape[1]))
    dX, ds0, gradients = runner.backward(xp, cell, dstates, dfinal, record.weights, X, S, K, record.lengths)
    dx = None if dX is None else layout.to_public(xp, dX)
    return dx, tuple(map(xp.matrix_transpose, ds0)), unpack(xp, cell, gradients)
