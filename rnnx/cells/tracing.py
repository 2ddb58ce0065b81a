"""From a forward function, written as the equations of a paper, to the stages of a cell.

The function is called once with symbols. A gate called with x gives its input side, called with any other value its
recurrent side: a product with that value, the *operand*. Each operand makes a stage, because a product can only begin
when its operand is known, or several, because the gates of a stage have the same number of heads. The rest is placed in
the first stage that has everything it needs, and what a later stage uses is passed on from stage to stage. What depends
on vectors alone is *hoisted*: computed once for the whole sequence, except conditions and means.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rnnx._core.words import shown
from rnnx.cells.derivatives import gradients
from rnnx.cells.expressions import Expression
from rnnx.cells.gate import SIDES, Gate
from rnnx.cells.graph import Graph, reachable
from rnnx.cells.programs import Program, StageForward
from rnnx.cells.stage import Hoisted, Stage


class Signature(NamedTuple):
    """The names in the signature of a forward function."""

    x: str
    states: tuple[str, ...]
    gates: Mapping[str, Gate]  # by name, without keys
    vectors: tuple[str, ...]
    inputs: tuple[str, ...]
    numbers: Mapping[str, float]


class _Gate:
    """A gate in a function that is being traced."""

    def __init__(self, trace: "Trace", name: str) -> None:
        self._trace, self._name = trace, name

    def __call__(self, *operands: Any) -> Expression:
        """Return the sum of the products with the operands, and of the bias if x is one of them."""
        if not operands:
            raise TypeError(f"gate `{self._name}` must be called with x, a state or another value; got nothing")
        sides = [self._trace.side(self._name, operand) for operand in operands]
        total = sides[0]
        for side in sides[1:]:
            total = total + side
        return total


class Trace:
    """What a forward function computes, in symbols."""

    def __init__(self, function: Callable[..., Any], signature: Signature) -> None:
        self.signature, self.graph = signature, Graph()
        self.x = self.graph.leaf(signature.x)
        self.states = [self.graph.leaf(name) for name in signature.states]
        self.given = {name: self.graph.leaf(name) for name in (*signature.vectors, *signature.inputs)}
        self.zx: dict[str, Expression] = {}
        self.zh: dict[str, Expression] = {}
        self.operands: dict[int, Expression] = {}  # of the recurrent sides, by the number of the side
        gates = {name: _Gate(self, name) for name in signature.gates}
        result = function(self.x, *self.states, **gates, **self.given, **signature.numbers)
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(self.states):
            raise ValueError(f"the cell must return its states {signature.states}; got {len(results)} values")
        self.outputs = [self.graph.output(value) for value in results]
        self.values = self._values()
        self._check_use()
        used = {value.number for value in self.values}
        self.zx = {name: side for name, side in self.zx.items() if side.number in used}
        self.zh = {name: side for name, side in self.zh.items() if side.number in used}
        self.operands = {number: value for number, value in self.operands.items() if number in used}

    def side(self, gate: str, operand: Any) -> Expression:
        """Return the side of a gate that multiplies an operand."""
        if operand is self.x:
            return self.zx.setdefault(gate, self.graph.leaf(f"{gate}({self.signature.x})"))
        if not isinstance(operand, Expression) or operand.graph is not self.graph or operand.is_constant:
            raise TypeError(f"gate `{gate}` must be called with x, a state or another value; got {shown(operand)}")
        if gate not in self.zh:
            self.zh[gate] = self.graph.leaf(f"{gate}(...)")
            self.operands[self.zh[gate].number] = self.graph.output(operand)
        if self.operands[self.zh[gate].number] is not operand:
            raise ValueError(f"gate `{gate}` is applied to two different values besides x; use two gates")
        return self.zh[gate]

    def before(self, value: Expression) -> Sequence[Expression]:
        """Return what a value is computed from, the operand for a recurrent side."""
        return [self.operands[value.number]] if value.number in self.operands else value.arguments

    def _values(self) -> list[Expression]:
        """Return all values that the outputs need, each after those it is computed from."""
        found, todo = {}, list(self.outputs)
        while todo:
            value = todo.pop()
            if value.number not in found:
                found[value.number] = value
                todo += self.before(value)
        return [found[number] for number in sorted(found)]

    def _check_use(self) -> None:
        numbers = {value.number for value in self.values}
        if self.x.number in numbers:
            raise ValueError(f"`{self.signature.x}` can only be passed to gates, which have weights for it")
        leaves = [*self.zx.values(), *self.zh.values(), *self.given.values()]
        used = {value.number for value in leaves} & numbers
        named: dict[str, list[Expression]] = {name: [value] for name, value in self.given.items()}
        for name in self.signature.gates:
            named[name] = [side[name] for side in (self.zx, self.zh) if name in side]
        for name, values in named.items():
            if not used & {value.number for value in values}:
                raise ValueError(f"`{name}` does not affect the states that the cell returns")
        for name, gate in self.signature.gates.items():
            if gate.heads != 1 and (name not in self.zh or self.zh[name].number not in numbers):
                raise ValueError(f"gate `{name}` has {gate.heads} heads, so it must be called with more than x")


def hoist(trace: Trace) -> tuple[Hoisted | None, dict[int, str]]:
    """Return what to compute once for the whole sequence, and the keys of vectors by the numbers of their values."""
    vectors = {trace.given[name].number: name for name in trace.signature.vectors}
    constant, inner = set(vectors), []  # what depends on vectors alone
    for value in trace.values:
        arguments = [a.number for a in value.arguments if not a.is_constant]
        if arguments and constant.issuperset(arguments) and value.operation not in ("greater", "mean"):
            constant.add(value.number)
            inner.append(value)
    outside = {a.number for v in trace.values if v.number not in constant for a in v.arguments}
    outside |= {value.number for value in (*trace.outputs, *trace.operands.values())}
    results = [value for value in inner if value.number in outside]
    keys = {number: name for number, name in vectors.items() if number in outside}
    names = tuple(f"hoisted {k}" for k in range(len(results)))
    if not results:
        return None, keys
    needed = {value.number for value in reachable(results)}
    sources = [trace.given[name] for number, name in vectors.items() if number in needed]
    ds = [trace.graph.leaf(f"d {name}") for name in names]
    back = Program([*ds, *sources], gradients(results, ds, sources))
    used = tuple(str(source.data) for source in sources)
    by_number = {value.number: name for value, name in zip(results, names, strict=True)}
    return Hoisted(used, names, Program(sources, results), back), keys | by_number


class _Placement:
    """In which stage each value is computed."""

    def __init__(self, trace: Trace, vectors: Mapping[int, str]) -> None:
        self.trace, self.vectors = trace, vectors
        products = {self._product(gate): trace.operands[side.number] for gate, side in trace.zh.items()}
        first = trace.states[0]
        self.products = sorted(products, key=lambda product: (product[0] != first.number, product))
        self.operands = [products[product] for product in self.products]
        if self.operands and self.operands[0] is not first:
            self.products.insert(0, (first.number, 1))
            self.operands.insert(0, first)
        self.last = max(len(self.operands) - 1, 0)
        self.stage = self._earliest()
        self.uses = self._uses()
        self._settle()

    def _product(self, gate: str) -> tuple[int, int]:
        """Return what gates must share to be in one stage: the number of the operand, and the number of heads."""
        operand = self.trace.operands[self.trace.zh[gate].number]
        return operand.number, int(self.trace.signature.gates[gate].heads)

    def before(self, value: Expression) -> Sequence[Expression]:
        """Return the arguments of a value that the loop over time computes."""
        return () if value.number in self.vectors else value.arguments

    def _earliest(self) -> dict[int, int]:
        """Return the first stage that has what a value needs, or -1 if every stage has."""
        stage = {value.number: 0 for value in self.trace.states}
        for gate, side in self.trace.zh.items():
            stage[side.number] = self.products.index(self._product(gate))
        for gate, side in self.trace.zx.items():
            stage[side.number] = stage[self.trace.zh[gate].number] if gate in self.trace.zh else -1
        for value in self.trace.values:
            stage.setdefault(value.number, max((stage[a.number] for a in self.before(value)), default=-1))
        return stage

    def _uses(self) -> dict[int, list[int]]:
        """Return the numbers of the values that use each value directly.

        A condition cannot be passed on: what uses it uses its arguments, and computes it again.
        """
        uses: dict[int, list[int]] = {}
        for value in self.trace.values:
            for argument in self.before(value):
                for used in argument.arguments if argument.is_condition else (argument,):
                    uses.setdefault(used.number, []).append(value.number)
        return uses

    def _settle(self) -> None:
        """Place what could be anywhere where it is used first, and check that operands are known in time."""
        for value in reversed(self.trace.values):
            if self.stage[value.number] < 0 and not value.is_constant:
                stages = [self.stage[user] for user in self.uses.get(value.number, ())]
                stages += [k - 1 for k, operand in enumerate(self.operands) if operand is value]
                self.stage[value.number] = max(0, min(stages, default=self.last))
        for k, operand in enumerate(self.operands[1:], 1):
            before = {value.number for value in reachable([operand])}
            for gate, side in self.trace.zx.items():
                if side.number in before and self.stage[side.number] >= k:
                    raise ValueError(
                        f"the input side of gate `{gate}` is needed before its recurrent side; use two gates"
                    )

    def leaving(self, k: int) -> list[Expression]:
        """Return what stage k passes on: the operand of the next stage, and what later stages use."""
        if k == self.last:
            return self.trace.outputs
        operand = self.operands[k + 1]
        later = {value.number for value in (*self.operands[k + 2 :], *self.trace.outputs)}
        passed = [
            value
            for value in self.trace.values
            if not value.is_constant
            and value is not operand
            and self.stage[value.number] <= k
            and (value.number in later or any(self.stage[user] > k for user in self.uses.get(value.number, ())))
        ]
        return [operand, *passed]


def stages_of(trace: Trace, vectors: Mapping[int, str], width: Callable[[Expression], int]) -> tuple[Stage, ...]:
    """Return the stages of a traced cell.

    `vectors` are the keys of the vectors by the numbers of their values. `width` returns the width of a value.
    """
    placement = _Placement(trace, vectors)
    entering: Sequence[Expression] = trace.states
    stages = []
    for k in range(placement.last + 1):
        here = {value.number: value for value in trace.values if placement.stage[value.number] == k}
        gates = _gates(trace, here, width)
        given = {key: here[number] for number, key in vectors.items() if number in here}
        inputs = {name: trace.given[name] for name in trace.signature.inputs if trace.given[name].number in here}
        zx = [trace.zx[name] for name, gate in gates.items() if "x" in gate.sides]
        zh = [trace.zh[name] for name, gate in gates.items() if "h" in gate.sides]
        leaving = placement.leaving(k)
        program = Program([*zx, *zh, *entering, *given.values(), *inputs.values()], leaving)
        out = trace.signature.states if k == placement.last else tuple(f"out{k}_{i}" for i in range(len(leaving)))
        forward = StageForward(program, len(out))  # saved values are determined when the backward function is derived
        stages.append(Stage(tuple(gates.values()), out, (), forward, vectors=tuple(given), inputs=tuple(inputs)))
        entering = leaving
    return tuple(stages)


def _gates(trace: Trace, here: Mapping[int, Expression], width: Callable[[Expression], int]) -> dict[str, Gate]:
    """Return the gates of a stage by name, in the order that `Stage` requires."""
    gates = {}
    for name in trace.signature.gates:
        sides = "".join(
            side for side, of in (("x", trace.zx), ("h", trace.zh)) if name in of and of[name].number in here
        )
        if sides:
            declared = trace.signature.gates[name]
            bias = f"b{name}" if "x" in sides and declared.biased else ""
            taken = width(trace.operands[trace.zh[name].number]) if "h" in sides else 0
            gates[name] = Gate((f"W{name}",), bias, None, False, sides, declared.heads, declared.width, taken)
    return dict(sorted(gates.items(), key=lambda item: SIDES.index(item[1].sides)))
