"""Checks of the recurrent functions' arguments, and their conversion to one dtype.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_lengths
from rnnx._core.inputs import is_index_input
from rnnx._core.layout import valid_examples
from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.cells.cell import STEP
from rnnx.engines.protocol import Call
from rnnx.functional.quantization import weights_of
from rnnx.functional.shapes import (
    SHAPE_AND_DTYPE,
    Kind,
    cached,
    check_dict,
    check_sizes,
    named_shapes,
    units_in_symbols,
)


def checked_call(
    cell: Cell,
    x: Array,
    states: Mapping[str, Array | None],
    parameters: Mapping[str, Array],
    lengths: Any = None,
    inputs: Mapping[str, Array] | None = None,
    *,
    one_step: bool = False,
) -> Call:
    """Check the arguments of a forward pass. A single step is passed on as a sequence of one step.

    `states` holds arrays (n_a, m), or None for zeros, in the order of ``cell.states``.
    """
    x_name = "xt" if one_step else "x"
    check_dict(cell, parameters)
    inputs = named_inputs(cell, inputs)
    given = {name: array for name, array in states.items() if array is not None}
    xp, device = ns.common_namespace({x_name: x, **given, **inputs, **parameters})
    kinds = tuple(map(SHAPE_AND_DTYPE, (x, *given.values(), *inputs.values(), *parameters.values())))
    names = x_name, tuple(given), tuple(inputs), tuple(parameters)
    n_x, n_a, m, dtype, indices, is_exact = cached(_signature, x)(cell, xp, one_step, names, kinds)
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, x.shape[-1])
    if one_step:
        x, inputs = xp.expand_dims(x, axis=2), {name: xp.expand_dims(a, axis=a.ndim) for name, a in inputs.items()}
    if is_exact and len(given) == len(states) and not cell.inputs:
        own, weights = dict(parameters), weights_of(parameters)
        return Call(cell, xp, dtype, x, False, n_x, tuple(given.values()), own, ends, (), weights)
    call = converted_call(cell, (xp, device, dtype), x, (n_x, n_a), states, parameters, ends, inputs)
    if indices:
        check_indices("x", call.x, "n_x", n_x)
    return call


class _Signature(NamedTuple):
    """What follows from the names, shapes and dtypes of the arguments of a call."""

    n_x: int
    n_a: int
    m: int
    dtype: Any
    indices: bool
    is_exact: bool  # whether all arrays have that dtype


@lru_cache(maxsize=256)  # training passes the same shapes at every step; errors are not cached
def _signature(cell: Cell, xp: Any, one_step: bool, names: tuple[Any, ...], kinds: tuple[Any, ...]) -> _Signature:
    """Check shapes and dtypes, the `kinds` of all arrays; `names`: of x, and of the states, inputs and parameters."""
    x_name, *others = names
    x, *rest = (Kind(tuple(shape), dtype) for shape, dtype in kinds)
    each = iter(rest)
    states, inputs, parameters = ({name: next(each) for name in group} for group in others)
    indices = not one_step and is_index_input(xp, x)
    n_x, n_a, m = check_sizes(cell, x.shape, named_shapes(states), named_shapes(parameters), indices, one_step)
    dtype = ns.floating_dtype(xp, parameters, {x_name: x, **states, **inputs})
    for name, array in inputs.items():
        check_input(cell, name, array, n_a, m, None if one_step else x.shape[-1])
    return _Signature(n_x, n_a, m, dtype, indices, not indices and all(kind.dtype == dtype for kind in (x, *rest)))


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
    if not indices:
        x = ns.astype(xp, x, dtype)
    else:
        x = ns.as_index(xp, x)
        if ends is not None:
            x = xp.where(valid_examples(xp, ends, n_steps), x, xp.zeros_like(x))
    given = [array for array in states.values() if array is not None]
    zeros = None if len(given) == len(states) else xp.zeros((n_a, m), dtype=dtype, device=device)
    s0 = tuple([zeros if array is None else ns.astype(xp, array, dtype) for array in states.values()])
    if cell.has_widths and zeros is not None:
        s0 = _of_own_widths(cell, xp, s0, zeros)
    cast = {key: array if array.dtype == dtype else xp.astype(array, dtype) for key, array in parameters.items()}
    extra = _all_inputs(cell, kind, (n_a, m, n_steps), inputs or {}) if cell.inputs else ()
    return Call(cell, xp, dtype, x, indices, n_x, s0, cast, ends, extra, weights_of(parameters))


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
    return dict(zip_longest(_names(cell.states, pattern), arrays))


@lru_cache(maxsize=256)
def _names(states: tuple[str, ...], pattern: str) -> tuple[str, ...]:
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
