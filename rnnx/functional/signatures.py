"""The checks of a forward pass: of everything but values, once for all calls like it, and of values.

Symbols: n_x inputs, n_a hidden units, m examples, T_x time steps.
"""

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_lengths
from rnnx._core.inputs import is_index_input
from rnnx._core.kinds import Table, kinds
from rnnx.cells import Cell, cell_of
from rnnx.engines.protocol import Arrays, Call
from rnnx.functional.arguments import by_state, check_input, converted_call, copied_indices, named_inputs
from rnnx.functional.quantization import weights_of
from rnnx.functional.shapes import check_dict, check_sizes, named_shapes


class Signature:
    """What follows from the kinds of the arguments of a call, for all calls like it.

    Attributes
    ----------
    cell : Cell
    kind : tuple
        The namespace of the arrays, their device, and the dtype to convert them to.
    n_x, n_a, m : int
    indices : bool
        Whether x holds the indices of one-hot columns.
    is_exact : bool
        Whether the arrays can be passed on as they are, in the order given: all have that dtype, except for indices,
        and none of the extra inputs is missing or has one value for all units.
    passes : dict
        Prepared passes; see `schedule.prepared`.
    """

    def __init__(
        self,
        cell: Cell,
        x: Array,
        states: Mapping[str, Array],
        parameters: Mapping[str, Array],
        inputs: Mapping[str, Array] | None,
        one_step: bool,
    ) -> None:
        x_name = "xt" if one_step else "x"
        check_dict(cell, parameters)
        inputs, order = named_inputs(cell, inputs), inputs or {}
        xp, device = ns.common_namespace({x_name: x, **states, **inputs, **parameters})
        self.indices = not one_step and is_index_input(xp, x)
        shapes = named_shapes(states), named_shapes(parameters)
        self.cell, (self.n_x, n_a, m) = cell, check_sizes(cell, tuple(x.shape), *shapes, self.indices, one_step)
        dtype = ns.floating_dtype(xp, parameters, {x_name: x, **states, **inputs})
        steps = () if one_step else (x.shape[-1],)
        for name, array in inputs.items():
            check_input(cell, name, array, n_a, m, None if one_step else x.shape[-1])
        self.kind, self.n_a, self.m, self.one_step = (xp, device, dtype), n_a, m, one_step
        self.n_steps = 1 if one_step else x.shape[-1]
        arrays = (*(() if self.indices else (x,)), *states.values(), *inputs.values(), *parameters.values())
        whole = [tuple(inputs[name].shape) == (cell.size(name, n_a), m, *steps) for name in inputs]
        is_complete = all(whole) and tuple(order) == cell.inputs
        self.is_exact = is_complete and all(array.dtype == dtype for array in arrays)
        self.passes: dict[Any, Any] = {}

    def lengths(self, lengths: Any) -> Array | None:
        """Return the lengths, checked, as an array of integers."""
        return None if lengths is None else check_lengths(*self.kind[:2], lengths, self.m, self.n_steps)

    def call(
        self,
        x: Array,
        states: Iterable[Array | None],
        parameters: Mapping[str, Array],
        inputs: Mapping[str, Array] | None,
        ends: Array | None,
    ) -> Call:
        """Return the call, converted. A single step is passed on as a sequence of one step."""
        xp, inputs = self.kind[0], inputs or {}
        if self.one_step:
            x, inputs = xp.expand_dims(x, axis=2), {name: xp.expand_dims(a, axis=a.ndim) for name, a in inputs.items()}
        by_name = dict(zip_longest(self.cell.states, states))
        if self.indices:
            x = self.checked_indices(x, ends)
        return converted_call(self.cell, self.kind, x, (self.n_x, self.n_a), by_name, parameters, ends, inputs)

    def checked_indices(self, x: Array, ends: Array | None) -> Array:
        """Return a copy of the indices x, zero past each length, which must be in range."""
        x = copied_indices(self.kind[0], x, ends)
        check_indices("x", x, "n_x", self.n_x)
        return x


_signatures: Table[Signature] = Table()


def signature(
    cell: Cell | str,
    x: Array,
    states: Any,
    parameters: Mapping[str, Array],
    inputs: Mapping[str, Array] | None = None,
    *,
    names: str | tuple[str, ...] = "{}0",
    one_step: bool = False,
) -> tuple[Signature, Arrays]:
    """Check all arguments of a forward pass but for values; return what follows, and x and the other arrays given.

    There are no arrays if such a call cannot be found again.

    `states`: arrays (n_a, m), or None for zeros, in the order of ``cell.states``. `names`: theirs, or a pattern.
    """
    key, arrays = None, ()
    try:
        present, extra = [s for s in states if s is not None], None
        if inputs is None:
            arrays = (x, *present, *parameters.values())
        else:
            arrays, extra = (x, *present, *inputs.values(), *parameters.values()), tuple(inputs)
        if (of_arrays := kinds(arrays)) is not None:
            absent = None if len(present) == len(states) else tuple([s is None for s in states])
            kind = type(parameters)
            weights = "" if kind is dict else weights_of(parameters)
            of_states = type(states), len(states), absent
            key = cell, one_step, names, *of_states, type(inputs), extra, kind, weights, *parameters, of_arrays
    except (AttributeError, TypeError):  # the checks say what is wrong
        pass
    found = _signatures.find(key)
    if found is None:
        cell = cell_of(cell)
        by_name = (
            by_state("s0", states, cell, names) if isinstance(names, str) else dict(zip(names, states, strict=True))
        )
        given = {name: array for name, array in by_name.items() if array is not None}
        found = _signatures.add(key, Signature(cell, x, given, parameters, inputs, one_step))
    return found, () if key is None else arrays


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
    names, arrays = tuple(states), tuple(states.values())
    found, _ = signature(cell, x, arrays, parameters, inputs, names=names, one_step=one_step)
    return found.call(x, arrays, parameters, inputs, found.lengths(lengths))
