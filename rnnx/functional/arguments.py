"""Checks of the recurrent functions' arguments, and their conversion to one dtype.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape, check_lengths, compare_shapes, nearest
from rnnx._core.layout import valid_examples
from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes
from rnnx.engines.protocol import Call


def checked_call(
    cell: Cell,
    x: Array,
    states: Mapping[str, Array | None],
    parameters: Mapping[str, Array],
    lengths: Any = None,
    *,
    one_step: bool = False,
) -> Call:
    """Check the arguments of a forward pass. A single step is passed on as a sequence of one step.

    `states` holds arrays (n_a, m), or None for zeros, in the order of ``cell.states``.
    """
    x_name = "xt" if one_step else "x"
    check_keys(cell, parameters)
    given = {name: array for name, array in states.items() if array is not None}
    xp, device = ns.common_namespace({x_name: x, **given, **parameters})
    indices = not one_step and x.ndim == 2 and ns.is_integer(xp, x)
    shapes = tuple(x.shape), _shapes(given), _shapes(parameters)
    n_x, n_a, m = _sizes(cell, x_name, *shapes, indices, one_step)
    dtype = ns.floating_dtype(xp, parameters, {x_name: x, **given})
    zeros = None if len(given) == len(states) else xp.zeros((n_a, m), dtype=dtype, device=device)
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, x.shape[-1])
    if indices:
        x = _indices(xp, x_name, x, n_x, ends)
    else:
        x = ns.astype(xp, xp.expand_dims(x, axis=2) if one_step else x, dtype)
    s0 = tuple([zeros if array is None else ns.astype(xp, array, dtype) for array in states.values()])
    cast = {key: array if array.dtype == dtype else xp.astype(array, dtype) for key, array in parameters.items()}
    return Call(cell, xp, dtype, x, indices, n_x, s0, cast, ends)


def _indices(xp: Any, name: str, x: Array, n_x: int, lengths: Array | None) -> Array:
    """Copy the indices, with zeros past each length. Their range is checked on the host only."""
    x = ns.as_index(xp, x)
    if lengths is not None:
        x = xp.where(valid_examples(xp, lengths, x.shape[1]), x, xp.zeros_like(x))
    if ns.is_on_host(x) and x.size and (x.min() < 0 or x.max() >= n_x):
        raise ValueError(f"`{name}` must hold indices from 0 to n_x - 1 = {n_x - 1}; got {x.min()} to {x.max()}")
    return x


def _shapes(arrays: Mapping[str, Array]) -> tuple[tuple[str, Shape], ...]:
    return tuple([(name, tuple(array.shape)) for name, array in arrays.items()])


@lru_cache(maxsize=256)  # training passes the same shapes at every step; errors are not cached
def _sizes(
    cell: Cell,
    x_name: str,
    x: Shape,
    states: tuple[tuple[str, Shape], ...],
    parameters: tuple[tuple[str, Shape], ...],
    indices: bool,
    one_step: bool,
) -> tuple[int, int, int]:
    """Check all shapes and return n_x, n_a and m."""
    n_x, m = (_input_size(cell, dict(parameters)), x[0]) if indices else _check_x(x_name, x, one_step)
    n_a = _hidden_size(cell, dict(states), dict(parameters))
    for name, shape in states:
        compare_shapes(name, shape, "(n_a, m)", (n_a, m))
    _check_parameters(cell, dict(parameters), n_x, n_a)
    return n_x, n_a, m


def _check_x(name: str, x: Shape, one_step: bool) -> tuple[int, int]:
    symbols = "(n_x, m)" if one_step else "(n_x, m, T_x)"
    if len(x) != symbols.count(",") + 1:
        other = "" if one_step else ", or (m, T_x) if it holds integers, which select one-hot columns"
        raise ValueError(f"`{name}` must have shape {symbols}{other}; got {x}")
    if x[0] == 0:
        raise ValueError(f"`{name}` must have shape {symbols} with n_x >= 1; got {x}")
    return x[0], x[1]


def by_state(name: str, arrays: Any, cell: Cell, pattern: str) -> dict[str, Array | None]:
    """Key a sequence of arrays, one per state, by the course's names; missing ones are None."""
    if not isinstance(arrays, tuple | list):
        raise TypeError(f"`{name}` must be a tuple of arrays, one per state {cell.states}; got {type(arrays).__name__}")
    if len(arrays) > len(cell.states):
        raise ValueError(f"`{name}` must hold at most one array per state {cell.states}; got {len(arrays)}")
    missing = [None] * (len(cell.states) - len(arrays))
    return {pattern.format(state): a for state, a in zip(cell.states, [*arrays, *missing], strict=True)}


def input_size(cell: Cell, parameters: Mapping[str, Array]) -> int:
    """Return n_x, read from the shapes of the weights."""
    return _input_size(cell, dict(_shapes(parameters)))


def _input_size(cell: Cell, parameters: Mapping[str, Shape]) -> int:
    """Return the n_x that most weights agree on, so that an error names the one that differs."""
    sizes = {}
    for gate in cell.gates:
        key, shape = gate.weights[0], parameters[gate.weights[0]]
        sizes[key] = (shape[1] - shape[0] if gate.is_joint else shape[1]) if len(shape) == 2 else 0
        if sizes[key] < 1:
            raise ValueError(f"`{key}` must have shape {gate.shapes(1, 1)[key][0]} with n_x >= 1; got {shape}")
    return Counter(sizes.values()).most_common(1)[0][0]


def check_keys(cell: Cell, parameters: Mapping[str, Array]) -> None:
    """Raise unless `parameters` has exactly the keys of the cell, with or without its head."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    _check_keys(cell, tuple(parameters))


@lru_cache(maxsize=256)
def _check_keys(cell: Cell, keys: tuple[str, ...]) -> None:
    known = (*cell.parameter_keys, *cell.head, *cell.optional_keys)
    for key in keys:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in `parameters` of {cell.name}{nearest(str(key), known)}")
    required = cell.parameter_keys + (cell.head if any(key in keys for key in cell.head) else ())
    missing = [key for key in required if key not in keys]
    if missing:
        raise ValueError(f"`parameters` of {cell.name} must have keys {list(required)}; missing {missing}")


def _hidden_size(cell: Cell, states: Mapping[str, Shape], parameters: Mapping[str, Shape]) -> int:
    """Return the n_a that most arrays agree on, so that an error names the one that differs."""
    shapes = {**states, **{key: parameters[key] for key in cell.parameter_keys}}
    votes = Counter(shape[0] for shape in shapes.values() if shape)
    n_a = votes.most_common(1)[0][0] if votes else 0
    if n_a == 0:
        raise ValueError(f"n_a must be at least 1; got {', '.join(f'`{k}` {v}' for k, v in shapes.items())}")
    return n_a


def check_parameter_shapes(cell: Cell, parameters: Mapping[str, Array], n_x: int, n_a: int) -> None:
    """Raise unless all parameters have the right shapes."""
    _check_parameters(cell, dict(_shapes(parameters)), n_x, n_a)


def _check_parameters(cell: Cell, shapes: Mapping[str, Shape], n_x: int, n_a: int) -> None:
    n_y = None
    if cell.head[0] in shapes:
        head = shapes[cell.head[0]]
        n_y = head[0] if head else 0
        if n_y == 0:
            raise ValueError(f"`{cell.head[0]}` must have shape (n_y, n_a) with n_y >= 1; got {head}")
    expected = expected_shapes(cell, n_x, n_a, n_y)
    for key, shape in shapes.items():
        compare_shapes(key, shape, *expected[key])


def check_sequence_gradients(gradients: Mapping[str, Array], n_a: int, m: int, n_steps: int) -> int | None:
    """Check da, dc, ... of shape (n_a, m, T), T <= T_x; return T, or None if there are none."""
    first: str | None = None
    steps = 0
    for name, array in gradients.items():
        if array.ndim != 3 or tuple(array.shape[:2]) != (n_a, m) or array.shape[2] > n_steps:
            raise ValueError(
                f"`{name}` must have shape (n_a, m, T) = ({n_a}, {m}, T) with T <= T_x = {n_steps}; "
                f"got {tuple(array.shape)}"
            )
        if first is None:
            first, steps = name, array.shape[2]
        elif array.shape[2] != steps:
            raise ValueError(f"`{name}` must cover as many steps as `{first}`, {steps}; got {array.shape[2]}")
    return None if first is None else steps


def check_steps(cell: Cell, steps: Any) -> Sequence[tuple[Any, ...]]:
    """Check and return a hand-built list of cache tuples, one per step."""
    size = 2 * len(cell.states) + len(cell.cache) + 2
    if not isinstance(steps, Sequence) or isinstance(steps, str) or not steps:
        raise TypeError(f"`caches` must be what {cell.name}_forward returned, or ([cache, ...], x)")
    for step in steps:
        if not isinstance(step, tuple | list) or len(step) != size or not isinstance(step[-1], Mapping):
            raise ValueError(
                f"a cache of {cell.name} must be a tuple of {size} entries ending in (xt, parameters), "
                f"as {cell.name}_cell_forward returns it; this may be the cache of another cell"
            )
        if getattr(step[-2], "ndim", 2) == 1:
            raise ValueError(
                "cache tuples of index inputs cannot be used apart from their `caches`: pass `caches` itself"
            )
    return steps
