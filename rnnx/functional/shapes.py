"""The shapes of parameters and states, and the numbers n_x, n_a and m that follow from them.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape, check_keys, compare_shapes
from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes

NamedShapes = tuple[tuple[str, Shape], ...]


def units_in_symbols(cell: Cell, name: str) -> str:
    """Return the number of units of a state, vector or input as text: n_a, unless it has a width of its own."""
    return str(dict(cell.widths).get(name, "n_a"))


def check_parameters(cell: Cell, parameters: Mapping[str, Array]) -> tuple[int, int]:
    """Check parameters without inputs; return n_x and n_a."""
    check_dict(cell, parameters)
    xp, _ = ns.common_namespace(parameters)
    ns.floating_dtype(xp, parameters, {})
    shapes = dict(named_shapes(parameters))
    n_x = _input_size(cell, shapes)
    n_a = _hidden_size(cell, shapes)
    _check_parameter_shapes(cell, shapes, n_x, n_a)
    return n_x, n_a


def check_sizes(
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


def check_dict(cell: Cell, parameters: Mapping[str, Array]) -> None:
    """Check the names of parameters."""
    if type(parameters) is not dict and not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    _check_keys(cell, tuple(parameters))


@lru_cache(maxsize=256)
def _check_keys(cell: Cell, keys: tuple[str, ...]) -> None:
    head = cell.head if any(key in keys for key in cell.head) else ()
    check_keys(cell.name, keys, cell.parameter_keys + head, cell.head + cell.optional_keys)


def named_shapes(arrays: Mapping[str, Array]) -> NamedShapes:
    """Return the shapes of arrays by name, as a value that can be hashed."""
    return tuple([(name, tuple(array.shape)) for name, array in arrays.items()])
