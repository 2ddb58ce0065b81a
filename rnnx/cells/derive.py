r"""The backward function of a stage, derived from its forward function.

Three steps, the first two in `rnnx.cells.graph` and `rnnx.cells.derivatives`:

1. Forward is called once with symbols, which gives the graph of what it computes.
2. Reverse-mode differentiation extends the graph by the cotangents of the stage's inputs.
3. These need values of the forward pass. The states before and after the stage, vectors and extra inputs are there
   anyway. Every other value is either *saved*, at the cost of a store and a load, or *recomputed* in the backward
   pass, at the cost of its operation, and then its own arguments have to be there. The sides zx and zh can only be
   saved. The cheapest choice is a minimum cut: let a graph have two nodes for each value v and the edges

   - source -> want(v) if the backward pass uses v, of infinite capacity,
   - want(v) -> compute(v), of the cost to save v,
   - compute(v) -> sink, of the cost of v's operation,
   - compute(v) -> want(a) for each argument a of v, of infinite capacity.

   Cutting want(v) -> compute(v) means to save v; cutting compute(v) -> sink, to recompute it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rnnx._core.words import shown
from rnnx.cells.derivatives import gradients
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, depending_on, reachable, symbolic_ops, symbols
from rnnx.cells.minimum_cut import minimum_cut
from rnnx.cells.programs import Program, StageForward
from rnnx.cells.stage import Stage
from rnnx.cells.vocabulary import Ops

# Costs in vector instructions: of operations, and of storing and loading an array.
COSTS = {"+": 1, "-": 1, "*": 1, "neg": 1, "/": 4, "tanh": 20, "sigmoid": 20, "relu": 2, "heaviside": 2, "exp": 14}
COSTS |= {"log": 18, "sqrt": 5, "abs": 1, "sign": 2, "softplus": 34, "log_sigmoid": 34, "sin": 20, "cos": 20}
COSTS |= {"erf": 30, "gelu": 36, "floor": 5, "mean": 4, "maximum": 1, "minimum": 1, "greater": 1, "where": 1}
SAVE_COST = 20
NEVER = 10**9

_Place = tuple[str, int]  # a node of the cut's graph: what is wanted or computed, and the value's number
_SOURCE, _SINK = ("source", 0), ("sink", 0)


@dataclass(frozen=True)
class DerivedBackward:
    """The derived backward function of a stage as a program."""

    program: Program
    n_x: int
    n_h: int
    n_given: int

    def __call__(self, ops: Ops, ds: Any, s_prev: Any, s_next: Any, saved: Any, v: Any = ()) -> tuple[Any, ...]:
        """Return (dzx, dzh, ds_prev), and dv if the stage has vectors or inputs."""
        values = self.program(ops, *ds, *s_prev, *s_next, *saved, *v)
        sides, end = self.n_x + self.n_h, len(values) - self.n_given
        result = values[: self.n_x], values[self.n_x : sides], values[sides:end]
        return (*result, values[end:]) if self.n_given else result


class DerivedStage(NamedTuple):
    """What `derive_stage` finds out."""

    forward: StageForward
    backward: DerivedBackward
    n_saved: int
    additive: bool


class _Trace(NamedTuple):
    """A forward function in symbols: its arguments and the values that it returns."""

    zx: tuple[Expression, ...]
    zh: tuple[Expression, ...]
    s: tuple[Expression, ...]
    v: tuple[Expression, ...]
    new: tuple[Expression, ...]

    @property
    def arguments(self) -> tuple[Expression, ...]:
        return self.zx + self.zh + self.s + self.v


def derive_stage(
    forward: Callable[..., Any], n_x: int, n_h: int, n_reads: int, n_given: int = 0, n_both: int | None = None
) -> DerivedStage:
    """Derive the backward function of a stage, and what forward has to save for it.

    Parameters
    ----------
    forward : callable
        A stage's forward function (see `rnnx.cells.stage`). What it returns as `saved` is not used.
    n_x, n_h : int
        Numbers of gates with an input side and with a recurrent side: the lengths of `zx` and `zh`.
    n_reads : int
        Number of states that the stage reads.
    n_given : int
        Number of vectors and extra inputs.
    n_both : int or None
        Number of gates with both sides: the last entries of `zh` and the first of `zx`. None means as many as possible.
    """
    graph = Graph()
    trace = _trace(graph, forward, n_x, n_h, n_reads, n_given)
    (ds,) = symbols(graph, ds=len(trace.new))
    derivatives = gradients(trace.new, ds, trace.arguments)
    saved = _choose_saved(trace, ds, derivatives)
    n_both = min(n_x, n_h) if n_both is None else n_both
    return DerivedStage(
        StageForward(Program(trace.arguments, (*trace.new, *saved)), len(trace.new)),
        DerivedBackward(Program((*ds, *trace.s, *trace.new, *saved, *trace.v), derivatives), n_x, n_h, n_given),
        n_saved=len(saved),
        additive=_is_additive(trace, n_both),
    )


def _trace(graph: Graph, forward: Callable[..., Any], n_x: int, n_h: int, n_reads: int, n_given: int) -> _Trace:
    """Call forward with symbols."""
    zx, zh, s, v = symbols(graph, zx=n_x, zh=n_h, s=n_reads, v=n_given)
    result = forward(symbolic_ops(graph), zx, zh, s, *([v] if n_given else []))
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], tuple)):
        raise TypeError(f"the forward function of a stage must return two tuples, (s_next, saved); got {shown(result)}")
    return _Trace(zx, zh, s, v, tuple(graph.output(value) for value in result[0]))


def _is_additive(trace: _Trace, n_both: int) -> bool:
    """Return whether the two sides of every gate that has both are used as their sum only."""
    pairs = [{a.number, b.number} for a, b in zip(trace.zx, trace.zh[len(trace.zh) - n_both :], strict=False)]
    sides = {number for pair in pairs for number in pair}
    if any(value.number in sides for value in trace.new):
        return False
    for value in reachable(trace.new):
        used = {a.number for a in value.arguments}
        if used & sides and not (value.operation == "+" and used in pairs):
            return False
    return True


def _choose_saved(trace: _Trace, ds: Sequence[Expression], derivatives: Sequence[Expression]) -> list[Expression]:
    """Return the values of the forward pass to save for the backward pass."""
    free = {value.number for value in (*trace.s, *trace.new, *trace.v)}

    def costs(value: Expression) -> bool:
        return value.number not in free and not value.is_constant

    used = [value for value in _forward_values(ds, derivatives) if costs(value)]
    known = reachable(used)
    values = [value for value in known if costs(value)]
    # What depends on vectors and inputs alone has no row per example, and a condition is not a number: never saved.
    savable = depending_on((*trace.zx, *trace.zh, *trace.s), known)
    edges: list[tuple[_Place, _Place, int]] = [(_SOURCE, ("want", value.number), NEVER) for value in used]
    for value in values:
        want, compute = ("want", value.number), ("compute", value.number)
        can_save = value.number in savable and not value.is_condition
        edges.append((want, compute, SAVE_COST if can_save else NEVER))
        edges.append((compute, _SINK, COSTS[value.operation] if value.arguments else NEVER))
        edges += [(compute, ("want", a.number), NEVER) for a in value.arguments if costs(a)]
    uncut = minimum_cut(edges, _SOURCE, _SINK)
    return [v for v in values if ("want", v.number) not in uncut and ("compute", v.number) in uncut]


def _forward_values(ds: Sequence[Expression], derivatives: Sequence[Expression]) -> list[Expression]:
    """Return the values that do not depend on the cotangents `ds`, but are used together with values that do."""
    values = reachable(derivatives)
    backward = depending_on(ds, values)
    border = [a for value in values if value.number in backward for a in value.arguments]
    return [value for value in (*border, *derivatives) if value.number not in backward]


def complete(stage: Stage, n_reads: int, prefix: str = "saved") -> Stage:
    """Return a stage with its backward function, `saved` and `additive` derived from its forward function.

    Parameters
    ----------
    stage : Stage
        A stage whose `backward`, `saved` and `additive` are ignored.
    n_reads : int
        Number of states that the stage reads.
    prefix : str
        Beginning of the names of the saved values; numbers follow.
    """
    n_given = len(stage.vectors) + len(stage.inputs)
    n_both = sum(gate.sides == "xh" for gate in stage.gates)
    n_x, n_h = len(stage.of_inputs), len(stage.recurrent)
    derived = derive_stage(stage.forward, n_x, n_h, n_reads, n_given, n_both)
    if derived.forward.n_out != len(stage.out):
        raise ValueError(f"a stage with `out` = {stage.out} must return as many states; got {derived.forward.n_out}")
    return replace(
        stage,
        saved=tuple(f"{prefix}{k}" for k in range(derived.n_saved)),
        forward=derived.forward,
        backward=derived.backward,
        additive=derived.additive,
    )
