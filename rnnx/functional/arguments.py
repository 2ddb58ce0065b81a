"""Checks of the recurrent functions' arguments, and their conversion to one dtype.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape, check_indices, check_keys, check_lengths, check_shape, compare_shapes
from rnnx._core.layout import valid_examples
from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes
from rnnx.engines.protocol import Call

NamedShapes = tuple[tuple[str, Shape], ...]


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
    _check_dict(cell, parameters)
    inputs = named_inputs(cell, inputs)
    given = {name: array for name, array in states.items() if array is not None}
    xp, device = ns.common_namespace({x_name: x, **given, **inputs, **parameters})
    indices = not one_step and x.ndim == 2 and ns.is_integer(xp, x)
    shapes = tuple(x.shape), _shapes(given), _shapes(parameters)
    n_x, n_a, m = _sizes(cell, *shapes, indices, one_step)
    dtype = ns.floating_dtype(xp, parameters, {x_name: x, **given, **inputs})
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, x.shape[-1])
    if indices:
        x = ns.as_index(xp, x)
        if ends is not None:
            x = xp.where(valid_examples(xp, ends, x.shape[1]), x, xp.zeros_like(x))
        check_indices("x", x, "n_x", n_x)
    else:
        x = ns.astype(xp, xp.expand_dims(x, axis=2) if one_step else x, dtype)
    zeros = {} if len(given) == len(states) else _zeros(cell, n_a, m, xp, dtype, device)
    pairs = zip(cell.states, states.values(), strict=True)
    s0 = tuple([zeros[cell.size(name, n_a)] if a is None else ns.astype(xp, a, dtype) for name, a in pairs])
    cast = {key: array if array.dtype == dtype else xp.astype(array, dtype) for key, array in parameters.items()}
    call = Call(cell, xp, dtype, x, indices, n_x, s0, cast, ends)
    return call if not inputs else replace(call, inputs=_cast_inputs(call, inputs, one_step))


def named_inputs(cell: Cell, inputs: Mapping[str, Array] | None) -> dict[str, Array]:
    """Return the extra inputs in the order of ``cell.inputs``."""
    if not isinstance(inputs, Mapping | None):
        raise TypeError(f"`inputs` must be a dict of arrays; got {type(inputs).__name__}")
    given = inputs or {}
    if {*given} != {*cell.inputs}:
        expected = f"must have the keys {list(cell.inputs)}" if cell.inputs else "must be empty"
        raise ValueError(f"`inputs` {expected} for cell {cell.name!r}; got {list(given)}")
    return {name: given[name] for name in cell.inputs}


def _cast_inputs(call: Call, inputs: Mapping[str, Array], one_step: bool) -> tuple[Array, ...]:
    """Check the shapes of extra inputs and convert them to the dtype of the call, as sequences."""
    for name, array in inputs.items():
        units, of_units = call.cell.size(name, call.n_a), units_in_symbols(call.cell, name)
        if one_step:
            check_shape(name, array, f"({of_units}, m)", (units, call.m))
        else:
            check_shape(name, array, f"({of_units}, m, T_x)", (units, call.m, call.n_steps))
    xp = call.xp
    arrays = [ns.astype(xp, array, call.dtype) for array in inputs.values()]
    return tuple(xp.expand_dims(a, axis=2) if one_step else a for a in arrays)


def _shapes(arrays: Mapping[str, Array]) -> NamedShapes:
    return tuple([(name, tuple(array.shape)) for name, array in arrays.items()])


@lru_cache(maxsize=256)  # training passes the same shapes at every step; errors are not cached
def _sizes(
    cell: Cell, x: Shape, states: NamedShapes, parameters: NamedShapes, indices: bool, one_step: bool
) -> tuple[int, int, int]:
    """Check all shapes and return n_x, n_a and m."""
    n_x, m = (_input_size(cell, dict(parameters)), x[0]) if indices else _check_x(x, one_step)
    n_a = _hidden_size(cell, dict(states + parameters))
    for name, shape in states:
        state = name[:-1] if name.endswith("0") else name.removesuffix("_prev")
        compare_shapes(name, shape, f"({units_in_symbols(cell, state)}, m)", (cell.size(state, n_a), m))
    _check_parameter_shapes(cell, dict(parameters), n_x, n_a)
    return n_x, n_a, m


def _check_x(x: Shape, one_step: bool) -> tuple[int, int]:
    name, symbols, other = "x", "(n_x, m, T_x)", ", or (m, T_x) for integer indices"
    if one_step:
        name, symbols, other = "xt", "(n_x, m)", ""
    if len(x) != symbols.count(",") + 1:
        raise ValueError(f"`{name}` must have shape {symbols}{other}; got {x}")
    if x[0] == 0:
        raise ValueError(f"`{name}` must have shape {symbols} with n_x >= 1; got {x}")
    return x[0], x[1]


def by_state(name: str, arrays: Any, cell: Cell, pattern: str) -> dict[str, Array | None]:
    """Key a sequence of arrays, one per state, by the course's names; missing ones are None."""
    if not isinstance(arrays, tuple | list):
        raise TypeError(f"`{name}` must be a tuple with one array per state {cell.states}; got {type(arrays).__name__}")
    if len(arrays) > len(cell.states):
        raise ValueError(f"`{name}` must have at most one array per state {cell.states}; got {len(arrays)}")
    return dict(zip_longest([pattern.format(state) for state in cell.states], arrays))


def check_parameters(cell: Cell, parameters: Mapping[str, Array]) -> tuple[int, int]:
    """Check parameters without inputs; return n_x and n_a."""
    _check_dict(cell, parameters)
    xp, _ = ns.common_namespace(parameters)
    ns.floating_dtype(xp, parameters, {})
    shapes = dict(_shapes(parameters))
    n_x = _input_size(cell, shapes)
    n_a = _hidden_size(cell, shapes)
    _check_parameter_shapes(cell, shapes, n_x, n_a)
    return n_x, n_a


def units_in_symbols(cell: Cell, name: str) -> str:
    """Return the number of units of a state, vector or input as text: n_a, unless it has a width of its own."""
    return str(dict(cell.widths).get(name, "n_a"))


def _zeros(cell: Cell, n_a: int, m: int, xp: Any, dtype: Any, device: Any) -> dict[int, Array]:
    """Return initial states of zeros by their number of units."""
    sizes = {cell.size(state, n_a) for state in cell.states} if cell.has_widths else (n_a,)
    return {n: xp.zeros((n, m), dtype=dtype, device=device) for n in sizes}


def _input_size(cell: Cell, parameters: Mapping[str, Shape]) -> int:
    """Return the n_x that most weights agree on, so that an error names the one that differs."""
    sizes = {}
    for gate in cell.gates:
        if gate.sides == "h":
            continue
        key, shape = gate.weights[0], parameters[gate.weights[0]]
        units = gate.operand_width or (_hidden_size(cell, parameters) if gate.width else shape[0] if shape else 0)
        of_h = units // int(gate.heads) if gate.is_joint else 0
        sizes[key] = shape[1] - of_h if len(shape) == 2 else 0
        if sizes[key] < 1:
            symbols = gate.shapes(1, int(gate.heads))[key][0]
            raise ValueError(f"`{key}` must have shape {symbols} with n_x >= 1; got {shape}")
    if not sizes:
        raise ValueError(f"cell {cell.name!r} has no weights for x, so the number of its inputs, n_x, is unknown")
    return Counter(sizes.values()).most_common(1)[0][0]


def _check_dict(cell: Cell, parameters: Mapping[str, Array]) -> None:
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    _check_keys(cell, tuple(parameters))


@lru_cache(maxsize=256)
def _check_keys(cell: Cell, keys: tuple[str, ...]) -> None:
    head = cell.head if any(key in keys for key in cell.head) else ()
    check_keys(cell.name, keys, cell.parameter_keys + head, cell.head + cell.optional_keys)


def _hidden_size(cell: Cell, shapes: Mapping[str, Shape]) -> int:
    """Return the n_a that most arrays agree on, so that an error names the one that differs."""
    left_out = (*cell.head, *cell.optional_keys, *_with_widths(cell))
    shapes = {name: shape for name, shape in shapes.items() if name not in left_out}
    votes = Counter(shape[0] for shape in shapes.values() if shape)
    n_a = votes.most_common(1)[0][0] if votes else 0
    if n_a == 0:
        raise ValueError(f"n_a must be at least 1; got {', '.join(f'`{k}` {v}' for k, v in shapes.items())}")
    return n_a


@lru_cache(maxsize=256)
def _with_widths(cell: Cell) -> tuple[str, ...]:
    """Return the names of arguments whose first dimension is a width of the cell's own."""
    keys = [key for gate in cell.gates if gate.width for key in gate.keys]
    own = [name for name, _ in cell.widths]
    return (*keys, *own, *(f"{name}{end}" for name in own for end in ("0", "_prev", "_next")))


def _check_parameter_shapes(cell: Cell, shapes: Mapping[str, Shape], n_x: int, n_a: int) -> None:
    n_y = None
    if cell.head[0] in shapes:
        head = shapes[cell.head[0]]
        n_y = head[0] if head else 0
        if n_y == 0:
            raise ValueError(f"`{cell.head[0]}` must have shape (n_y, n_a) with n_y >= 1; got {head}")
    expected = expected_shapes(cell, n_x, n_a, n_y)
    for key, shape in shapes.items():
        compare_shapes(key, shape, *expected[key])


def check_sequence_gradients(
    cell: Cell, gradients: Mapping[str, Array | None], n_a: int, m: int, n_steps: int
) -> int | None:
    """Check da, dc, ... of shape (n_a, m, T), T <= T_x; return T, or None if there are none.

    `gradients` are in the order of ``cell.states``, None where there is none.
    """
    steps = {}
    for (name, array), state in zip(gradients.items(), cell.states, strict=True):
        if array is None:
            continue
        shape, units = tuple(array.shape), cell.size(state, n_a)
        if len(shape) != 3 or shape[:2] != (units, m) or shape[2] > n_steps:
            symbols = f"({units_in_symbols(cell, state)}, m, T)"
            expected = f"{symbols} = ({units}, {m}, T) with T <= T_x = {n_steps}"
            raise ValueError(f"`{name}` must have shape {expected}; got {shape}")
        steps[name] = shape[2]
    if len({*steps.values()}) > 1:
        raise ValueError(f"sequence gradients must have the same number of steps; got {steps}")
    return next(iter(steps.values()), None)


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
