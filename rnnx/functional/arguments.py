"""Checks of the recurrent functions' arguments, and their conversion to one dtype.

Symbols: n_x inputs, n_a hidden units, n_y outputs, m examples, T_x time steps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from operator import attrgetter
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import Shape, check_indices, check_keys, check_lengths, check_shape, compare_shapes
from rnnx._core.inputs import is_index_input
from rnnx._core.layout import valid_examples
from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.cells.cell import STEP
from rnnx.cells.parameters import expected_shapes
from rnnx.engines.protocol import Call, Tape

NamedShapes = tuple[tuple[str, Shape], ...]
_SHAPE_AND_DTYPE: Any = attrgetter("shape", "dtype")


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
    find = _signature if device == "cpu" else _signature.__wrapped__  # other dtypes may not hash alike
    kinds = tuple(map(_SHAPE_AND_DTYPE, (x, *given.values(), *inputs.values(), *parameters.values())))
    names = x_name, tuple(given), tuple(inputs), tuple(parameters)
    n_x, n_a, m, dtype, indices, is_exact = find(cell, xp, one_step, names, kinds)
    ends = None if lengths is None else check_lengths(xp, device, lengths, m, x.shape[-1])
    if one_step:
        x, inputs = xp.expand_dims(x, axis=2), {name: xp.expand_dims(a, axis=a.ndim) for name, a in inputs.items()}
    if is_exact and len(given) == len(states) and not cell.inputs:
        return Call(cell, xp, dtype, x, False, n_x, tuple(given.values()), dict(parameters), ends, ())
    call = converted_call(cell, (xp, device, dtype), x, (n_x, n_a), states, parameters, ends, inputs)
    if indices:
        check_indices("x", call.x, "n_x", n_x)
    return call


class _Kind(NamedTuple):
    """What the checks of an array look at."""

    shape: Shape
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)


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
    x, *rest = (_Kind(tuple(shape), dtype) for shape, dtype in kinds)
    each = iter(rest)
    states, inputs, parameters = ({name: next(each) for name in group} for group in others)
    indices = not one_step and is_index_input(xp, x)
    n_x, n_a, m = _sizes(cell, x.shape, _shapes(states), _shapes(parameters), indices, one_step)
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
    return Call(cell, xp, dtype, x, indices, n_x, s0, cast, ends, extra)


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


def _shapes(arrays: Mapping[str, Array]) -> NamedShapes:
    return tuple([(name, tuple(array.shape)) for name, array in arrays.items()])


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
    return dict(zip_longest(_names(cell.states, pattern), arrays))


@lru_cache(maxsize=256)
def _names(states: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(state) for state in states)


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


def _of_own_widths(cell: Cell, xp: Any, states: tuple[Array, ...], zeros: Array) -> tuple[Array, ...]:
    """Return the initial states with zeros of the right width for those that are `zeros`, (n_a, m)."""
    (n_a, m), kind = zeros.shape, {"dtype": zeros.dtype, "device": ns.device(zeros)}
    pairs = zip(cell.states, states, strict=True)
    return tuple([xp.zeros((cell.size(name, n_a), m), **kind) if s is zeros else s for name, s in pairs])


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
    if type(parameters) is not dict and not isinstance(parameters, Mapping):
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


def check_cotangents(
    tape: Tape,
    caches_name: str,
    ds: Mapping[str, Array | None],
    ds_final: Mapping[str, Array | None],
    n_a: int | None = None,
) -> None:
    """Check the cotangents of a tape, keyed by their public names; `n_a` is the number of features of `ds`."""
    given = {name: d for name, d in ds.items() if d is not None}
    given_final = {name: d for name, d in ds_final.items() if d is not None}
    _, device = ns.common_namespace({caches_name: tape.states[0], **given, **given_final})
    check = _check_cotangents if device == "cpu" else _check_cotangents.__wrapped__
    kinds = tuple(map(_SHAPE_AND_DTYPE, (*given.values(), *given_final.values())))
    units: dict[str, tuple[str, int]] = {}
    if tape.cell.has_widths:
        pairs = (ds_final,) if n_a else (ds, ds_final)
        names = [pair for by_name in pairs for pair in zip(by_name, tape.cell.states, strict=True)]
        units = {name: (units_in_symbols(tape.cell, of), tape.cell.size(of, tape.n_a)) for name, of in names}
    sizes = n_a or tape.n_a, tape.n_a, tape.m, tape.n_steps
    check(tape.xp, sizes, tuple(units.items()), (tuple(given), tuple(given_final)), kinds)


@lru_cache(maxsize=256)
def _check_cotangents(
    xp: Any,
    sizes: tuple[int, ...],
    units: tuple[tuple[str, tuple[str, int]], ...],
    names: tuple[Any, ...],
    kinds: tuple[Any, ...],
) -> None:
    """Check shapes and dtypes. `names`: of the sequence and of the final cotangents; `kinds`: in that order.

    `units` are the numbers of units by name, in symbols and as integers, where they are not n_a.
    """
    each = iter([_Kind(tuple(shape), dtype) for shape, dtype in kinds])
    given, final = ({name: next(each) for name in group} for group in names)
    features, n_a, m, n_steps = sizes
    own = dict(units)
    steps = _check_sequence_gradients(given, own, ("n_a", features), m, n_steps)
    for name, d in final.items():
        symbols, n = own.get(name, ("n_a", n_a))
        check_shape(name, d, f"({symbols}, m)", (n, m))
        if steps is not None and steps < n_steps:
            raise ValueError(f"`{name}` requires `{next(iter(given))}` for all T_x = {n_steps} steps; got {steps}")
    ns.floating_dtype(xp, {}, {**given, **final})


def _check_sequence_gradients(
    given: Mapping[str, Any],
    units: Mapping[str, tuple[str, int]],
    of_others: tuple[str, int],
    m: int,
    n_steps: int,
) -> int | None:
    """Check da, dc, ... of shape (n, m, T), T <= T_x; return T, or None if there are none.

    `units` are the numbers n by name, in symbols and as integers, `of_others` is that of the others.
    """
    steps = {}
    for name, array in given.items():
        shape, (symbols, n) = tuple(array.shape), units.get(name, of_others)
        if len(shape) != 3 or shape[:2] != (n, m) or shape[2] > n_steps:
            expected = f"({symbols}, m, T) = ({n}, {m}, T) with T <= T_x = {n_steps}"
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
