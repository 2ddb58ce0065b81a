"""The ``caches`` of sequence functions, backed by stacked arrays."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.arrays import Array
from rnnx._core.inputs import is_index_input
from rnnx._core.kinds import Table, kinds
from rnnx.cells import Cell
from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.protocol import Call, Tape
from rnnx.functional import arguments, signatures
from rnnx.functional.shapes import units_in_symbols


class Caches(Sequence[Any]):
    """The ``caches`` of a sequence function. They unpack as ``(steps, x)``, as in the course.

    ``steps[t]`` is the course's cache tuple of step t, made of views on access. Its `x` and `parameters` are the
    caller's own objects, but the backward pass uses copies made by the forward pass.

    Attributes
    ----------
    cell : Cell
    engine : str
        Name of the engine of the forward and the backward pass.
    inputs : dict of str to int
        The extra inputs that were given, and their numbers of dimensions.

    See Also
    --------
    lstm_forward, recurrent_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, rng=0)
    >>> _, _, caches = rnnx.rnn_forward(np.ones((3, 4, 7), "float32"), None, parameters)
    >>> steps, x = caches
    >>> len(steps), x.shape, caches.final_state["a"].shape
    (7, (3, 4, 7), (5, 4))
    """

    inputs: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, engine: str, tape: Tape, x: Array, parameters: Mapping[str, Array], cell: Cell | None = None
    ) -> None:
        self.cell = cell or tape.cell  # that of the tape may have more options
        self.engine = engine
        self._tape: Tape | None = tape
        self._x = x
        self._parameters = parameters

    @property
    def final_state(self) -> dict[str, Array]:
        """States after each example's last step, by name ("a", and "c" for an LSTM), each (n_a, m)."""
        tape = self._live()
        last = [state.T for state in tape.final]
        if tape.conversion is not None:
            last = [tape.conversion.outward(tape.xp, state) for state in last]
        return {name: ns.owned_copy(tape.xp, state) for name, state in zip(self.cell.states, last, strict=True)}

    def consume(self) -> None:
        """Free the arrays. Any later use raises an error."""
        self._tape = None

    def tape_for(self, cell: Cell) -> Tape:
        """Return the tape, or raise if it does not fit a backward pass of `cell`."""
        if cell is not self.cell and cell != self.cell:
            raise ValueError(f"`caches` must come from a forward pass of {cell.name}; got caches of {self.cell.name}")
        tape = self._live()
        if not tape.has_saved:
            raise ValueError("`caches` contain no saved values: the forward pass ran with keep_caches=False")
        return tape

    def _live(self) -> Tape:
        if self._tape is None:
            raise ValueError("`caches` were already consumed by a backward pass with consume=True")
        return self._tape

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (Steps(self), self._x)[index]

    def __repr__(self) -> str:
        n_steps = "consumed" if self._tape is None else f"T_x={self._tape.n_steps}"
        return f"<caches of {self.cell.name}_forward, {n_steps}, engine={self.engine!r}>"


class Steps(Sequence[Any]):
    """The cache tuples of all steps, created on access."""

    def __init__(self, caches: Caches) -> None:
        self.caches = caches

    def __len__(self) -> int:
        return self.caches._live().n_steps

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[t] for t in range(*index.indices(len(self)))]
        t = range(len(self))[index]  # may raise IndexError
        cell, tape = self.caches.cell, self.caches.tape_for(self.caches.cell)
        assert tape.saved is not None

        def view(a: Array, t: int) -> Array:
            return tape.xp.matrix_transpose(a[t, :, :])

        after = tuple(view(s, t + 1) for s in tape.states)
        before = tuple(view(s, t) for s in tape.states)
        saved = dict(zip(tape.cell.saved, tape.saved, strict=True))
        gates = tuple(view(saved[name], t) for name in cell.cache)
        return (*after, *before, *gates, self.caches._x[..., t], self.caches._parameters)


class _Steps(NamedTuple):
    """What follows from the kinds of the arrays of cache tuples; `indices`: whether xt holds indices."""

    xp: Any
    dtype: Any
    n_x: int
    indices: bool


_known: Table[_Steps] = Table()  # of single steps that have been checked and need no conversion


def tape_of_steps(cell: Cell, steps: Any) -> Tape:
    """Build a tape from a list of the tuples that the cell functions return."""
    steps = arguments.check_steps(cell, steps)
    parameters, key = steps[0][-1], _key(cell, steps)
    after, before = [f"{s}_next" for s in cell.states], [f"{s}_prev" for s in cell.states]
    *values, xts, _ = zip(*steps, strict=True)
    columns = dict(zip((*after, *before, *cell.cache), values, strict=True))
    known = _known.find(key)
    if known is None:
        known = _checked(cell, steps, columns)
        dtypes = {a.dtype for column in (*values, parameters.values()) for a in column}
        if dtypes == {known.dtype} and not known.indices:
            _known.add(key, known)
    xp, dtype, n_x, indices = known

    def rows(array: Array) -> Array:
        return ns.astype(xp, array, dtype).T

    def stack(arrays: Sequence[Array]) -> Array:
        if len(arrays) == 1:
            return xp.expand_dims(ns.contiguous(xp, rows(arrays[0]), own=True), axis=0)
        return xp.stack([rows(a) for a in arrays])

    states = tuple([stack([*columns[o], columns[n][-1]]) for n, o in zip(after, before, strict=True)])
    x = xp.stack([ns.as_index(xp, xt) for xt in xts]) if indices else stack(xts)
    own = {key: ns.astype(xp, a, dtype) for key, a in recurrent_parameters(cell, parameters).items()}
    saved = {name: stack(columns[name]) for name in cell.cache}
    tape = Tape(cell, xp, dtype, x, indices, n_x, states, None, None, own)
    if set(cell.saved) - set(saved):
        saved = replayed(tape, cell) | saved  # the public tuples lack some (the GRU's r * a_prev)
    tape.saved = tuple([saved[name] for name in cell.saved])
    return tape


def _key(cell: Cell, steps: Sequence[tuple[Any, ...]]) -> Any:
    """Return what the checks of a single step depend on; None if it cannot be found again."""
    (*values, parameters), *others = steps
    if others or type(parameters) is not dict:
        return None
    of_arrays = kinds((*values, *parameters.values()))
    return None if of_arrays is None else (cell, tuple(parameters), of_arrays)


def _checked(cell: Cell, steps: Sequence[tuple[Any, ...]], columns: Mapping[str, Sequence[Array]]) -> _Steps:
    """Check the tuples of consecutive steps, whose values by name are `columns`."""
    if cell.inputs or cell.hoisted:
        raise ValueError(f"`caches` of {cell.name} must come from its forward function")
    parameters = steps[0][-1]
    if any(set(step[-1]) != set(parameters) or step[-1][k] is not parameters[k] for step in steps for k in parameters):
        raise ValueError("all caches must have the same `parameters`")
    xts = [step[-2] for step in steps]
    after, before = [f"{s}_next" for s in cell.states], [f"{s}_prev" for s in cell.states]
    calls = [_step(cell, xt, {name: columns[name][t] for name in before}, parameters) for t, xt in enumerate(xts)]
    first = calls[0]
    for (name, column), value in zip(columns.items(), (*cell.states, *cell.states, *cell.cache), strict=True):
        for array in column:
            ns.common_namespace({"xt": xts[0], name: array})
            units = f"({units_in_symbols(cell, value)}, m)"
            checks.check_shape(name, array, units, (cell.size(value, first.n_a), first.m))
    dtype = ns.floating_dtype(
        first.xp,
        {f"cache {t}": call.s0[0] for t, call in enumerate(calls)},
        {n: a for n in after + before for a in columns[n]},
    )
    for new, old in zip(after, before, strict=True):
        _check_consecutive(first.xp, new, columns[new][:-1], old, columns[old][1:])
    return _Steps(first.xp, dtype, first.n_x, first.indices)


def _step(cell: Cell, xt: Array, states: Mapping[str, Array], parameters: Mapping[str, Array]) -> Call:
    """Check the arguments of one step, whose input may be indices (m,)."""
    xp, _ = ns.common_namespace({"xt": xt})
    if is_index_input(xp, xt, one_step=True):
        return signatures.checked_call(cell, xp.expand_dims(xt, axis=1), states, parameters)
    return signatures.checked_call(cell, xt, states, parameters, one_step=True)


def _check_consecutive(xp: Any, new: str, after: Any, old: str, before: Any) -> None:
    """Raise unless every step starts from the final state of the previous one."""
    for t, (a, b) in enumerate(zip(after, before, strict=True)):
        if a is b or not (ns.is_concrete(a) and ns.is_concrete(b)):
            continue
        if not bool(xp.all((a == b) | ((a != a) & (b != b)))):
            raise ValueError(
                f"`caches` must cover consecutive steps: `{new}` of step {t} differs from `{old}` of step {t + 1}; "
                "for other steps, call the cell's backward function once per step"
            )


def replayed(tape: Tape, cell: Cell) -> dict[str, Array]:
    """Recompute all saved values of a cell with the same states and parameters as the tape's, each (T, m, n).

    All steps run at once, as examples of a single step.
    """
    xp, side_by_side = tape.xp, tape.n_steps * tape.m

    def columns(a: Array, n: int) -> Array:
        return xp.matrix_transpose(xp.reshape(a, (side_by_side, n)))

    s0 = tuple(columns(s[: tape.n_steps, :, :], s.shape[2]) for s in tape.states)
    x = tape.x if tape.indices else columns(tape.x, tape.n_x)
    x = xp.reshape(x, (side_by_side, 1)) if tape.indices else xp.expand_dims(x, axis=2)
    inputs = tuple(xp.expand_dims(columns(e, e.shape[2]), axis=2) for e in tape.inputs)
    call = Call(cell, xp, tape.dtype, x, tape.indices, tape.n_x, s0, dict(tape.parameters), None, inputs)
    engine: Any = engines.load("reference")
    if tape.indices:
        saved = [value[0, ...] for value in engine.forward(call, keep=True)[1].saved]
    else:
        saved = [value.T for value in engine.one_step(call)[1]]
    shape = (tape.n_steps, tape.m)
    return {name: xp.reshape(value, (*shape, value.shape[1])) for name, value in zip(cell.saved, saved, strict=True)}
