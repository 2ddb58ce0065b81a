"""Single steps of any cell. The course's functions call these with a fixed cell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnx import engines
from rnnx._core.arrays import Array
from rnnx._core.kinds import Table, kinds
from rnnx._core.underflow import ignore_underflow
from rnnx.cells import Cell
from rnnx.engines.precision import conversion
from rnnx.engines.protocol import Arrays, PreparedStep
from rnnx.functional import schedule, signatures
from rnnx.functional.cotangents import check_cotangents
from rnnx.functional.recurrent import checked_backward, head
from rnnx.functional.signatures import Signature


class StepCache(tuple[Any, ...]):
    """The cache tuple of a prepared step, and what its backward step reads besides. A copy is an ordinary tuple."""

    step: "_Step"
    kept: Any

    def __reduce__(self) -> Any:
        return tuple, (tuple(self),)


class _OneStep(NamedTuple):
    """What the checks of cotangents read of a tape."""

    cell: Cell
    n_a: int
    m: int
    n_steps: int
    final: Arrays


class _Step:
    """A forward step and its backward step, for calls of an exact signature."""

    def __init__(self, found: Signature, run: PreparedStep, xt: Array, parameters: Mapping[str, Array]) -> None:
        self._found, self._run = found, run
        self._of_given = kinds((xt, *parameters.values())), *parameters
        self._previous = _names(found.cell)
        self._right: Table[bool] = Table()  # cotangents, with the parameters of the cache tuple

    def forward(
        self, arrays: Arrays, xt: Array, parameters: Mapping[str, Array]
    ) -> tuple[Arrays, Array | None, StepCache]:
        """Return the states, the outputs and the cache tuple."""
        states, y, values, kept = self._run.forward(arrays)
        cache = StepCache((*values, xt, parameters))
        cache.step, cache.kept = self, kept
        return states, head(self._found, parameters, states[0]) if y is None else y, cache

    def backward(self, cell: Cell, ds: Mapping[str, Array | None], cache: StepCache) -> dict[str, Array] | None:
        """Return what `step_backward` does; None if arrays must be converted, or the caller's parameters are others."""
        found, every, (xt, parameters) = self._found, tuple(ds.values()), cache[-2:]
        if cell is not found.cell and cell != found.cell:
            return None
        arrays = (xt, *parameters.values())  # as they are now: the caller may have replaced some
        given = [d for d in every if d is not None]
        of_arrays = kinds((*given, *arrays))
        key = of_arrays and (of_arrays, *parameters, *[d is None for d in every])
        if not self._right.find(key):
            if (kinds(arrays), *parameters) != self._of_given:
                return None
            check_cotangents(_OneStep(cell, found.n_a, found.m, 1, cache[:1]), "cache", {}, ds)  # type: ignore[arg-type]
            if not key or any(d.dtype != found.kind[2] for d in given):
                return None
            self._right.add(key, True)
        dxt, ds_prev, gradients = self._run.backward(cache.kept, arrays, every)
        result = {"dxt": dxt}
        for name, d in zip(self._previous, ds_prev):  # noqa: B905 - one per state
            result[name] = d
        result |= gradients
        return result


@ignore_underflow
def step_forward(
    cell: Cell, xt: Array, states: Mapping[str, Array], parameters: Mapping[str, Array]
) -> tuple[tuple[Array, ...], Array | None, tuple[Any, ...]]:
    """Run one step; return the states (n_a, m), yt_pred and the course's cache tuple."""
    previous = tuple(states.values())
    arrays = (xt, *previous, *parameters.values()) if type(parameters) is dict else ()
    of_arrays = kinds(arrays)
    key = of_arrays and (cell, engines.state(), len(previous), *parameters, of_arrays)
    step = _steps.find(key)
    if step is not None:
        return step.forward(arrays, xt, parameters)
    found, _ = signatures.signature(cell, xt, previous, parameters, names=tuple(states), one_step=True)
    step = _prepared(found, xt, previous, parameters) if key else None
    if step is not None:
        return _steps.add(key, step).forward(arrays, xt, parameters)
    call = found.call(xt, previous, parameters, None, None)
    after, values = schedule.one_step(call)
    return after, head(found, call.parameters, after[0]), (*values, xt, parameters)


def _prepared(found: Signature, xt: Array, states: Arrays, parameters: Mapping[str, Array]) -> _Step | None:
    """Return a step for calls like this one, whose arrays are of NumPy or on a device; None if none can be prepared."""
    xp, _, dtype = found.kind
    engine = engines.load(engines.select(xp, m=found.m))
    prepares = getattr(engine, "prepared_step", None)
    if prepares is None or not found.is_exact or conversion(xp, dtype, engine) is not None:
        return None
    return _Step(found, prepares(found.call(xt, states, parameters, None, None)), xt, parameters)


_steps: Table[_Step] = Table()


@ignore_underflow
def step_backward(cell: Cell, ds: Mapping[str, Array], cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return the gradients of one step: dxt (not for indices), d<state>_prev per state, "d" + key per parameter."""
    if not isinstance(cache, tuple):
        raise TypeError(f"`cache` must come from {cell.name}_cell_forward; got {type(cache).__name__}")
    found = cache.step.backward(cell, ds, cache) if type(cache) is StepCache else None
    if found is not None:
        return found
    # The step is a sequence of length one, so its cotangents are those of the final states.
    dx, ds_prev, gradients, _ = checked_backward(cell, dict.fromkeys(cell.states), ds, "cache", ([cache], None))
    inputs = {} if dx is None else {"dxt": dx[:, :, 0]}
    return {**inputs, **dict(zip(_names(cell), ds_prev, strict=True)), **gradients}


def _names(cell: Cell) -> list[str]:
    """Return the names of the gradients of the states before a step."""
    return [f"d{state}_prev" for state in cell.states]
