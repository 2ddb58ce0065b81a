"""Choose the engine of a pass, run it, and keep its tape for the backward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.cells.stage import Hoisted
from rnnx.cells.vocabulary import array_ops
from rnnx.engines.precision import conversion
from rnnx.engines.protocol import Arrays, Call, Cotangents, Gradients, Tape
from rnnx.functional import arguments
from rnnx.functional.caches import Caches, Steps, tape_of_steps


def forward(
    call: Call, x: Array, parameters: Mapping[str, Array], *, keep: bool, cell: Cell | None = None
) -> tuple[Arrays, Caches]:
    """Return the states (n_a, m, T_x) and the caches, whose tuples show the caller's `x` and `parameters`.

    `cell` is the caller's, if that of the call has more options.
    """
    check_keep(call, keep)
    name = engines.select(call.xp, n_steps=call.n_steps, m=call.m)
    engine = engines.load(name)
    convert = conversion(call.xp, call.dtype, engine)
    if convert is not None:
        call = convert.call(call)
    states, tape = engine.forward(with_hoisted(call), keep=keep)
    if convert is not None:
        tape.conversion, states = convert, tuple([convert.outward(call.xp, s) for s in states])
    if keep and call.cell.hoisted:
        tape.sources = {key: ns.owned_copy(call.xp, call.parameters[key]) for key in call.cell.hoisted.sources}
    return states, Caches(name, tape, x, parameters, cell)


def one_step(call: Call) -> tuple[Arrays, Arrays]:
    """Return the states (n, m) after a call of one step, and copies of what its cache holds: the states after it and
    before it, and the values in ``cell.cache``.
    """
    xp, cell = call.xp, call.cell
    engine = engines.load(engines.select(xp, n_steps=1, m=call.m))
    run = getattr(engine, "one_step", None)
    if run is None or conversion(xp, call.dtype, engine) is not None:
        states, caches = forward(call, call.x, call.parameters, keep=True)
        return tuple([s[:, :, 0] for s in states]), caches[0][0][:-2]
    check_keep(call, True)
    states, saved = run(with_hoisted(call))
    named = dict(zip(cell.saved, saved, strict=True))
    values = (*states, *call.s0, *[named[name] for name in cell.cache])
    return tuple([ns.owned_copy(xp, s) for s in states]), tuple([ns.owned_copy(xp, v) for v in values])


def check_keep(call: Call, keep: bool) -> None:
    """Raise if a backward pass is to follow on parameters for inference only."""
    if keep and call.weights:
        raise ValueError("`parameters` of rnnx.quantize are for inference only: pass keep_caches=False")


def with_hoisted(call: Call) -> Call:
    """Return the call with what the cell computes from parameters alone among them, last."""
    hoisted = call.cell.hoisted
    if hoisted is None:
        return call
    vectors = hoisted_vectors(hoisted, call.xp, call.dtype, [call.parameters[key] for key in hoisted.sources])
    return call._replace(parameters={**call.parameters, **dict(zip(hoisted.results, vectors, strict=True))})


def hoisted_vectors(hoisted: Hoisted, xp: Any, dtype: Any, sources: Sequence[Array]) -> list[Array]:
    """Return what a cell computes from parameters alone."""
    return [ns.astype(xp, value, dtype) for value in hoisted.forward(array_ops(xp), *sources)]  # from wider types


def resolve(cell: Cell, caches: Any) -> tuple[Tape, str, Caches | None]:
    """Return the tape of a caller's `caches`, the engine of its backward pass, and the owning `Caches`.

    Hand-built caches, ``([cache, ...], x)``, have no owner.
    """
    if isinstance(caches, Caches):
        return caches.tape_for(cell), caches.engine, caches
    if not isinstance(caches, tuple | list) or len(caches) != 2:
        got = type(caches).__name__
        raise TypeError(f"`caches` must come from {cell.name}_forward or be ([cache, ...], x); got {got}")
    steps, x = caches
    if isinstance(steps, Steps):
        return resolve(cell, steps.caches)
    if x is not None:
        ns.common_namespace({"x": x})
        n_dims = 1 + getattr(arguments.check_steps(cell, steps)[0][-2], "ndim", 2)  # 2 if the inputs are indices
        if len(steps) != (x.shape[-1] if x.ndim == n_dims else -1):
            raise ValueError(
                f"`caches` must have one cache per step of `x`, which has shape {tuple(x.shape)}; got {len(steps)}"
            )
    tape = tape_of_steps(cell, steps)
    return tape, engines.select(tape.xp, n_steps=tape.n_steps, m=tape.m), None


def gradients(
    tape: Tape, engine: str, ds: Mapping[str, Array | None], ds_final: Mapping[str, Array | None]
) -> Gradients:
    """Return the gradients for checked cotangents, per state, of the first steps or all; see `recurrent_backward`."""
    for d in ds.values():
        if d is not None:
            tape = tape.steps(0, d.shape[2])
    if tape.conversion is not None:
        cotangents = Cotangents(tuple(ds.values()), tuple(ds_final.values()))
        found = backward(tape, engine, tape.conversion.cotangents(tape.xp, cotangents))
        return tape.conversion.gradients(tape.xp, found)
    given = [d for d in (*ds.values(), *ds_final.values()) if d is not None]
    dtype = ns.one_dtype(tape.xp, [tape.final[0], *given])

    def cast(arrays: Mapping[str, Array | None]) -> tuple[Array | None, ...]:
        return tuple([None if d is None else ns.astype(tape.xp, d, dtype) for d in arrays.values()])

    return backward(tape.astype(dtype), engine, Cotangents(cast(ds), cast(ds_final)))


def backward(tape: Tape, engine: str, cotangents: Cotangents) -> Gradients:
    """Return the gradients of all steps of a tape."""
    if tape.n_steps == 0 and engine != "reference":  # other engines cannot run empty passes
        tape, engine = replace(tape, own=None), "reference"
    return of_sources(tape, engines.load(engine).backward(tape, cotangents))


def of_sources(tape: Tape, gradients: Gradients) -> Gradients:
    """Convert the gradients of what the cell computes from parameters alone to those of these parameters."""
    hoisted = tape.cell.hoisted
    if hoisted is None:
        return gradients
    found = gradients.parameters
    ds = [found.pop("d" + key) for key in hoisted.results]
    sources = [ns.astype(tape.xp, tape.sources[key], tape.dtype) for key in hoisted.sources]
    of_sources = hoisted.backward(array_ops(tape.xp), *ds, *sources)
    for key, d in zip(hoisted.sources, of_sources, strict=True):
        total = found["d" + key] + d if "d" + key in found else d
        found["d" + key] = ns.astype(tape.xp, total, tape.dtype)
    return gradients
