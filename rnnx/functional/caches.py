"""What a forward pass keeps for its backward pass: stacked arrays that show themselves as the course's tuples.

Dimensions: T steps, m examples, n hidden units, n_x inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.cells.parameters import StageWeights, pack
from rnnx.functional import arguments


@dataclass
class Record:
    """The arrays of one forward pass, in internal layout."""

    xp: Any
    dtype: Any
    x: Array  # (T, m, n_x); or (T, m), integers that stand for one-hot columns
    weights: tuple[StageWeights, ...]
    states: tuple[Array, ...]  # each (T+1, m, n); slot 0 is the initial state
    saved: tuple[Array, ...] | None  # each (T, m, n), in the order of cell.saved; None: kept for no backward
    lengths: Array | None  # (m,)

    def promoted(self, dtype: Any) -> "Record":
        """The same record in another dtype."""
        if dtype == self.dtype or self.saved is None:
            return self

        def cast(a: Array) -> Array:
            return ns.astype(self.xp, a, dtype)

        weights = tuple(w.map(cast) for w in self.weights)
        states, saved = tuple(map(cast, self.states)), tuple(map(cast, self.saved))
        x = self.x if self.x.ndim == 2 else cast(self.x)
        return Record(self.xp, dtype, x, weights, states, saved, self.lengths)


class Caches(Sequence):
    """The ``caches`` of a sequence function: unpacks as ``(steps, x)``, as in the course.

    ``steps[t]`` is the course's cache tuple of step t. Its arrays are views, made when asked for. `x` and
    `parameters` in it are the caller's own objects; a backward pass uses copies of them made by forward.

    Attributes
    ----------
    cell : Cell
    engine : str
        Name of the engine that ran.
    """

    def __init__(
        self, cell: Cell, engine: str, record: Record | None, x: Array, parameters: Mapping[str, Array]
    ) -> None:
        self.cell = cell
        self.engine = engine
        self._record = record
        self._x = x
        self._parameters = parameters

    @property
    def final_state(self) -> dict[str, Array]:
        """The state after each example's last step, by name ("a", and "c" for an LSTM), each (n_a, m).

        With ``lengths`` this is the state at the end of each example, where the sequence output is zero.
        """
        record = self._live()
        return {
            name: ns.owned_copy(record.xp, record.xp.permute_dims(state[-1, :, :], (1, 0)))
            for name, state in zip(self.cell.states, record.states, strict=True)
        }

    def consume(self) -> None:
        """Let go of the arrays. A later use raises."""
        self._record = None

    def record_for(self, cell: Cell) -> Record:
        """The record, if it can serve a backward pass of `cell`."""
        if cell != self.cell:
            raise ValueError(f"`caches` must come from a forward pass of {cell.name}; these are of {self.cell.name}")
        record = self._live()
        if record.saved is None:
            raise ValueError("`caches` hold nothing for a backward pass: forward ran with keep_caches=False")
        return record

    def _live(self) -> Record:
        if self._record is None:
            raise ValueError("`caches` were already consumed by a backward pass with consume=True")
        return self._record

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return (Steps(self), self._x)[index]

    def __repr__(self) -> str:
        n_steps = "consumed" if self._record is None else f"T_x={self._record.x.shape[0]}"
        return f"<caches of {self.cell.name}_forward, {n_steps}, engine={self.engine!r}>"


class Steps(Sequence):
    """The cache tuples of all steps, each made when asked for."""

    def __init__(self, caches: Caches) -> None:
        self.caches = caches

    def __len__(self) -> int:
        return int(self.caches._live().x.shape[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[t] for t in range(*index.indices(len(self)))]
        t = range(len(self))[index]  # raises IndexError, counts negative indices from the end
        cell, record = self.caches.cell, self.caches.record_for(self.caches.cell)
        assert record.saved is not None

        def view(a: Array, t: int) -> Array:
            return record.xp.permute_dims(a[t, :, :], (1, 0))

        after = tuple(view(s, t + 1) for s in record.states)
        before = tuple(view(s, t) for s in record.states)
        saved = dict(zip(cell.saved, record.saved, strict=True))
        gates = tuple(view(saved[name], t) for name in cell.cache)
        return (*after, *before, *gates, self.caches._x[..., t], self.caches._parameters)


def from_steps(cell: Cell, steps: Any, replay: Any) -> Record:
    """The record of hand-built caches: a list of the tuples that the cell functions return.

    Parameters
    ----------
    cell : Cell
    steps : sequence of tuple
    replay : callable
        ``replay(cell, call)`` returns the saved values of a forward pass. It recomputes those that a public
        tuple does not show (the GRU's r * a_prev).
    """
    steps = arguments.check_steps(cell, steps)
    parameters = steps[0][-1]
    if any(set(step[-1]) != set(parameters) or step[-1][k] is not parameters[k] for step in steps for k in parameters):
        raise ValueError("all caches must hold the same `parameters`")
    after, before = [f"{s}_next" for s in cell.states], [f"{s}_prev" for s in cell.states]
    names = [*after, *before, *cell.cache, "xt"]
    columns = dict(zip(names, zip(*steps, strict=True), strict=False))  # all but the parameters
    calls = [
        arguments.forward_call(cell, ("xt", columns["xt"][t]), {name: columns[name][t] for name in before}, parameters)
        for t in range(len(steps))
    ]
    xp, (n_a, m) = calls[0].xp, (int(size) for size in calls[0].s0[0].shape)
    for name in (*after, *before, *cell.cache):
        for array in columns[name]:
            ns.common_namespace({"xt": columns["xt"][0], name: array})
            checks.check_shape(name, array, "(n_a, m)", (n_a, m))
    dtype = ns.floating_dtype(
        xp, {f"cache {t}": call.x for t, call in enumerate(calls)}, {n: a for n in after + before for a in columns[n]}
    )

    def stack(arrays: Any) -> Array:
        return xp.stack([xp.permute_dims(ns.astype(xp, a, dtype), (1, 0)) for a in arrays])

    for new, old in zip(after, before, strict=True):
        _check_consecutive(xp, new, columns[new][:-1], old, columns[old][1:])
    states = tuple(stack([*columns[o], columns[n][-1]]) for n, o in zip(after, before, strict=True))
    x = stack([call.x[:, :, 0] for call in calls])
    saved = {name: stack(columns[name]) for name in cell.cache}
    if set(cell.saved) - set(saved):
        replayed = replay(cell, _as_one_step(xp, dtype, calls[0].parameters, x, states))
        reshaped = {k: xp.reshape(v, (len(steps), m, n_a)) for k, v in zip(cell.saved, replayed, strict=True)}
        saved = reshaped | saved
    weights = pack(xp, cell, {k: ns.astype(xp, v, dtype) for k, v in calls[0].parameters.items()})
    return Record(xp, dtype, x, weights, states, tuple(saved[k] for k in cell.saved), None)


def _check_consecutive(xp: Any, new: str, after: Any, old: str, before: Any) -> None:
    """Raise unless every step begins with the state that the step before it ended with."""
    for t, (a, b) in enumerate(zip(after, before, strict=True)):
        if a is b or not (ns.is_concrete(a) and ns.is_concrete(b)):
            continue
        if not bool(xp.all((a == b) | ((a != a) & (b != b)))):
            raise ValueError(
                f"`caches` must be of consecutive steps: `{new}` of step {t} is not `{old}` of step {t + 1}; "
                "go back through such steps one by one, with the cell's own backward function"
            )


def _as_one_step(xp: Any, dtype: Any, parameters: Any, x: Array, states: tuple[Array, ...]) -> arguments.Call:
    """All steps side by side as the examples of one step."""
    n_steps, m, n_x = x.shape

    def columns(a: Array, n: int) -> Array:
        return xp.permute_dims(xp.reshape(a, (n_steps * m, n)), (1, 0))

    s0 = tuple(columns(s[:n_steps, :, :], s.shape[2]) for s in states)
    parameters = {key: ns.astype(xp, value, dtype) for key, value in parameters.items()}
    return arguments.Call(xp, dtype, xp.expand_dims(columns(x, n_x), axis=2), s0, parameters, None)
