"""Conversion of the recurrent functions' arguments to one dtype, and checks of single arguments.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.layout import valid_examples
from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.cells.cell import STEP
from rnnx.engines.protocol import Call
from rnnx.functional.quantization import weights_of
from rnnx.functional.shapes import units_in_symbols


def converted_call(
    cell: Cell,
    kind: tuple[Any, Any, Any],
    x: Array,
    sizes: tuple[int, int],
    states: Mapping[str, Array | None],
    parameters: Mapping[str, Array],
    ends: Array | None = None,
    inputs: Mapping[str, Array] | None = None,
) -> Call:
    """Convert the arguments of a call to one dtype, without checks.

    `kind` is their namespace, their device and that dtype; `sizes` are n_x and n_a; x is (n_x, m, T_x), or indices
    (m, T_x); `ends` are the lengths as an array of integers.
    """
    (xp, device, dtype), (n_x, n_a), (m, n_steps) = kind, sizes, x.shape[-2:]
    indices = x.ndim == 2
    x = copied_indices(xp, x, ends) if indices else ns.astype(xp, x, dtype)
    given = [array for array in states.values() if array is not None]
    zeros = None if len(given) == len(states) else xp.zeros((n_a, m), dtype=dtype, device=device)
    s0 = tuple([zeros if array is None else ns.astype(xp, array, dtype) for array in states.values()])
    if cell.has_widths and zeros is not None:
        s0 = _of_own_widths(cell, xp, s0, zeros)
    cast = {key: array if array.dtype == dtype else xp.astype(array, dtype) for key, array in parameters.items()}
    extra = _all_inputs(cell, kind, (n_a, m, n_steps), inputs or {}) if cell.inputs else ()
    return Call(cell, xp, dtype, x, indices, n_x, s0, cast, ends, extra, weights_of(parameters))


def copied_indices(xp: Any, x: Array, ends: Array | None) -> Array:
    """Return a copy of the indices x (m, T_x), zero past each length."""
    x = ns.as_index(xp, x)
    return x if ends is None else xp.where(valid_examples(xp, ends, x.shape[1]), x, xp.zeros_like(x))


def named_inputs(cell: Cell, inputs: Mapping[str, Array] | None, argument: str = "inputs") -> dict[str, Array]:
    """Return the extra inputs that are given, in the order of ``cell.inputs``. Those with a default may be missing."""
    if inputs is None and not cell.inputs:
        return {}
    if not isinstance(inputs, Mapping | None):
        raise TypeError(f"`{argument}` must be a dict of arrays; got {type(inputs).__name__}")
    given, defaults = inputs or {}, dict(cell.defaults)
    if not {*cell.inputs} - {*defaults} <= {*given} <= {*cell.inputs}:
        expected = f"must have the keys {list(cell.inputs)}" if cell.inputs else "must be empty"
        may = f", of which {list(defaults)} may be missing," if defaults else ""
        raise ValueError(f"`{argument}` {expected}{may} for cell {cell.name!r}; got {list(given)}")
    return {name: given[name] for name in cell.inputs if name in given}


def check_input(cell: Cell, name: str, array: Array, n_a: int, m: int, n_steps: int | None, called: str = "") -> None:
    """Raise ValueError unless an extra input has a value per unit, or one for all; of one step, n_steps is None."""
    units, steps = cell.size(name, n_a), () if n_steps is None else (n_steps,)
    if tuple(array.shape) not in ((m, *steps), (units, m, *steps)):
        of_units, (of_all, of_one) = units_in_symbols(cell, name), ("m, T_x", "(m, T_x)") if steps else ("m", "(m,)")
        expected = f"({of_units}, {of_all}) = {(units, m, *steps)} or {of_one} = {(m, *steps)}"
        raise ValueError(f"`{called or name}` must have shape {expected}; got {tuple(array.shape)}")


def _all_inputs(
    cell: Cell, kind: tuple[Any, Any, Any], sizes: tuple[int, int, int], given: Mapping[str, Array]
) -> tuple[Array, ...]:
    """Return all extra inputs as sequences (n_a, m, T), or of their own widths, without copies for every unit."""
    (xp, device, dtype), (n_a, *steps), defaults, arrays = kind, sizes, dict(cell.defaults), []
    for name in cell.inputs:
        shape = (cell.size(name, n_a), *steps)
        if name in given:
            array = ns.astype(xp, given[name], dtype)
        elif defaults[name] == STEP:
            array = xp.astype(xp.arange(sizes[2], device=device), dtype)
        else:
            array = xp.full((1,), defaults[name], dtype=dtype, device=device)
        arrays.append(array if tuple(array.shape) == shape else xp.broadcast_to(array, shape))
    return tuple(arrays)


def by_state(name: str, arrays: Any, cell: Cell, pattern: str) -> dict[str, Array | None]:
    """Key a sequence of arrays, one per state, by the course's names; missing ones are None."""
    if not isinstance(arrays, tuple | list):
        raise TypeError(f"`{name}` must be a tuple with one array per state {cell.states}; got {type(arrays).__name__}")
    if len(arrays) > len(cell.states):
        raise ValueError(f"`{name}` must have at most one array per state {cell.states}; got {len(arrays)}")
    return dict(zip_longest(state_names(cell.states, pattern), arrays))


@lru_cache(maxsize=256)
def state_names(states: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """Return a name for every state."""
    return tuple(pattern.format(state) for state in states)


def _of_own_widths(cell: Cell, xp: Any, states: tuple[Array, ...], zeros: Array) -> tuple[Array, ...]:
    """Return the initial states with zeros of the right width for those that are `zeros`, (n_a, m)."""
    (n_a, m), kind = zeros.shape, {"dtype": zeros.dtype, "device": ns.device(zeros)}
    pairs = zip(cell.states, states, strict=True)
    return tuple([xp.zeros((cell.size(name, n_a), m), **kind) if s is zeros else s for name, s in pairs])


def check_steps(cell: Cell, steps: Any) -> Sequence[tuple[Any, ...]]:
    """Check and return a hand-built list of cache tuples, one per step."""
    size = 2 * len(cell.states) + len(cell.cache) + 2
    if not isinstance(steps, Sequence) or isinstance(steps, str) or not steps:
        raise TypeError(f"`caches` must contain a list of caches, one per step; got {shown(steps)}")
    for step in steps:
        if not isinstance(step, tuple | list) or len(step) != size or not isinstance(step[-1], Mapping):
            raise ValueError(
                f"`cache` of {cell.name} must be a tuple of {size} entries ending in (xt, parameters), "
                f"as returned by {cell.name}_cell_forward; this one may belong to another cell"
            )
    if len({getattr(step[-2], "ndim", 2) for step in steps}) > 1:
        raise ValueError("all caches must have an `xt` of shape (n_x, m), or all indices of shape (m,); got both")
    return steps
