"""Single steps of any cell. The course's functions call these with a fixed cell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnx import engines
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.kinds import Table, kinds
from rnnx.cells import Cell
from rnnx.engines.precision import conversion
from rnnx.engines.protocol import Arrays, PreparedStep
from rnnx.functional import schedule, signatures
from rnnx.functional.cotangents import check_cotangents
from rnnx.functional.recurrent import checked_backward, head
from rnnx.functional.signatures import Signature


class StepCache(tuple[Any, ...]):
    """The cache tuple of a prepared step, and what its backward step reads besides. A copy is an ordinary tuple."""

    own: "tuple[_Step, Any]"

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
        self.cell, self._found, self._run = found.cell, found, run
        self._of_given = kinds((xt, *parameters.values())), *parameters
        self._names = "dxt", *_names(found.cell), *run.names
        self._right: Table[bool] = Table()  # cotangents, with the parameters of the cache tuple

    def forward(
        self, arrays: Arrays, xt: Array, parameters: Mapping[str, Array]
    ) -> tuple[Arrays, Array | None, StepCache]:
        """Return the states, the outputs and the cache tuple."""
        states, y, values, kept = self._run.forward(arrays)
        cache = StepCache((*values, xt, parameters))
        cache.own = self, kept
        return states, head(self._found, parameters, states[0]) if y is None else y, cache

    def backward(
        self, cell: Cell, ds: Mapping[str, Array | None], cache: StepCache, kept: Any
    ) -> dict[str, Array] | None:
        """Return what `step_backward` does; None if arrays must be converted, or the caller's parameters are others."""
        every, (xt, parameters) = tuple(ds.values()), cache[-2:]
        if cell is not self.cell and cell != self.cell:
            return None
        arrays = (xt, *parameters.values())  # as they are now: the caller may have replaced some
        of_arrays = kinds((*every, *arrays))
        right = self._right.find((of_arrays, *parameters)) if of_arrays else None
        if not (right or self._fits(ds, parameters, arrays)):
            return None
        return dict(zip(self._names, self._run.backward(kept, arrays, every)))  # noqa: B905 - in one order

    def _fits(self, ds: Mapping[str, Array | None], parameters: Mapping[str, Array], arrays: Arrays) -> bool:
        """Check cotangents; return whether they and the parameters are of the kinds of the step."""
        given = [d for d in ds.values() if d is not None]
        if (kinds(arrays), *parameters) != self._of_given:
            return False
        found = self._found
        check_cotangents(_OneStep(found.cell, found.n_a, found.m, 1, (arrays[0],)), "cache", {}, ds)  # type: ignore[arg-type]
        of_arrays = kinds((*given, *arrays))
        if not of_arrays or any(d.dtype != found.kind[2] for d in given):
            return False
        if len(given) == len(ds):
            self._right.add((of_arrays, *parameters), True)
        return True


def step_forward(
    cell: Cell, xt: Array, states: Mapping[str, Array], parameters: Mapping[str, Array]
) -> tuple[tuple[Array, ...], Array | None, tuple[Any, ...]]:
    """Run one step; return the states (n_a, m), yt_pred and the course's cache tuple."""
    arrays = (xt, *states.values(), *parameters.values()) if type(parameters) is dict else ()
    of_arrays = kinds(arrays)
    key = of_arrays and (cell.name, engines.state(), *parameters, of_arrays)
    step = _steps.find(key)
    if step is not None and step.cell is cell:
        return step.forward(arrays, xt, parameters)
    return _checked_forward(cell, xt, states, parameters, key)


@ignore_harmless_errors
def _checked_forward(
    cell: Cell, xt: Array, states: Mapping[str, Array], parameters: Mapping[str, Array], key: Any
) -> tuple[tuple[Array, ...], Array | None, tuple[Any, ...]]:
    """Check the arguments of `step_forward`, and prepare steps like it if possible."""
    previous = tuple(states.values())
    found, _ = signatures.signature(cell, xt, previous, parameters, names=tuple(states), one_step=True)
    step = _prepared(found, xt, previous, parameters) if key else None
    if step is not None:
        return _steps.add(key, step).forward((xt, *previous, *parameters.values()), xt, parameters)
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


def step_backward(cell: Cell, ds: Mapping[str, Array], cache: tuple[Any, ...]) -> dict[str, Array]:
    """Return the gradients of one step: dxt (not for indices), d<state>_prev per state, "d" + key per parameter."""
    if type(cache) is StepCache:
        step, kept = cache.own
        found = step.backward(cell, ds, cache, kept)
        if found is not None:
            return found
    return _checked_backward(cell, ds, cache)


@ignore_harmless_errors
def _checked_backward(cell: Cell, ds: Mapping[str, Array], cache: tuple[Any, ...]) -> dict[str, Array]:
    """Check the arguments of `step_backward`, and run it as a sequence."""
    if not isinstance(cache, tuple):
        raise TypeError(f"`cache` must come from {cell.name}_cell_forward; got {type(cache).__name__}")
    # The step is a sequence of length one, so its cotangents are those of the final states.
    dx, ds_prev, gradients, _ = checked_backward(cell, dict.fromkeys(cell.states), ds, "cache", ([cache], None))
    inputs = {} if dx is None else {"dxt": dx[:, :, 0]}
    return {**inputs, **dict(zip(_names(cell), ds_prev, strict=True)), **gradients}


def _names(cell: Cell) -> list[str]:
    """Return the names of the gradients of the states before a step."""
    return [f"d{state}_prev" for state in cell.states]
