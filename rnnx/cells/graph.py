"""Graphs of expressions.

A cell's function is *traced*: it is called once with symbols instead of arrays, and every operation on a symbol adds
a value to a `Graph`. The graph holds equal values once, so a common subexpression is found as soon as it is written a
second time. `rnnx.cells.derive` extends the graph of a forward function by its derivatives, and
`rnnx.cells.programs` turns parts of a graph into functions again.

Simplification only uses what holds for floating-point numbers, so results do not change, infinities and NaN included
(``x - x`` and ``0 * x`` stay), with one exception: the sign of a zero may.
"""

from collections.abc import Callable, Iterable
from functools import partial
from numbers import Real
from typing import Any, cast

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.cells.expressions import COMMUTATIVE, OPERATORS, WORDS, Expression, Operand
from rnnx.cells.vocabulary import Ops


class Graph:
    """Expressions, each held once: the same operation on the same arguments is the same object."""

    def __init__(self) -> None:
        self._values: dict[Any, Expression] = {}

    def leaf(self, name: str) -> Expression:
        """Return the value of this name that is given from outside."""
        return self._value("leaf", (), name)

    def constant(self, value: float) -> Expression:
        """Return a number as an expression. The zeros of both signs are one constant."""
        number = float(value)
        if not abs(number) < float("inf"):
            raise ValueError(f"a constant of a cell must be a finite number; got {number!r}")
        return self._value("constant", (), number + 0.0)

    def apply(self, operation: str, *operands: Operand) -> Expression:
        """Return an operator or a word of the vocabulary applied to expressions and numbers."""
        arguments = tuple(self._lift(f"ops.{operation} takes", a) for a in operands)
        for k, argument in enumerate(arguments):
            if argument.is_condition != (operation == "where" and k == 0):
                raise TypeError("the result of ops.greater can only be the first argument of ops.where")
        simplified = _simplified(self, operation, arguments) if operation in (*OPERATORS, "mean") else None
        return self._value(operation, arguments) if simplified is None else simplified

    def output(self, value: Operand) -> Expression:
        """Return a result of a traced function as an expression."""
        result = self._lift("a cell's function returns", value)
        if result.is_condition:
            raise TypeError("a cell's function returns values and numbers; got a condition of ops.greater")
        return result

    def _lift(self, what: str, operand: Operand) -> Expression:
        if isinstance(operand, Real):
            return self.constant(float(operand))
        if not isinstance(operand, Expression):
            raise TypeError(f"{what} values of the cell and numbers; got {shown(operand)}")
        if operand.graph is not self:
            raise ValueError("a cell uses a value of another cell, or of an earlier call of its function")
        return operand

    def _value(self, operation: str, arguments: tuple[Expression, ...], data: str | float | None = None) -> Expression:
        numbers = [a.number for a in arguments]
        key = (operation, tuple(sorted(numbers) if operation in COMMUTATIVE else numbers), data)
        if key not in self._values:
            self._values[key] = Expression(self, len(self._values), operation, arguments, data)
        return self._values[key]


def _simplified(graph: Graph, operation: str, arguments: tuple[Expression, ...]) -> Expression | None:
    """Return an equal but simpler expression than an operator, or mean, on these arguments; or None."""
    if operation == "mean":
        return arguments[0] if arguments[0].is_constant else None
    if all(a.is_constant for a in arguments):
        return graph.constant(OPERATORS[operation](*(a.data for a in arguments)))
    a, b = arguments[0], arguments[-1]
    if operation == "neg":
        if a.operation == "neg":
            return a.arguments[0]
        return a.arguments[1] - a.arguments[0] if a.operation == "-" else None
    if operation in "+-" and b.data == 0:
        return a
    if operation in "+-" and a.data == 0:
        return b if operation == "+" else -b
    if operation in "+-" and b.operation == "neg":
        return a - b.arguments[0] if operation == "+" else a + b.arguments[0]
    if operation == "+" and a.operation == "neg":
        return b - a.arguments[0]
    if operation in "*/" and b.data in (1, -1):
        return a if b.data == 1 else -a
    if operation == "*" and a.data in (1, -1):
        return b if a.data == 1 else -b
    if operation in "*/" and a.operation == "neg":
        return -graph.apply(operation, a.arguments[0], b)
    if operation in "*/" and b.operation == "neg":
        return -graph.apply(operation, a, b.arguments[0])
    return None


class _SymbolicOps:
    """The vocabulary on expressions of a graph; see `symbolic_ops`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __getattr__(self, word: str) -> Callable[..., Expression]:
        if word not in WORDS:
            raise AttributeError(f"the vocabulary of cells has no {word!r}{nearest(word, WORDS)}")
        return partial(self._apply, word)

    def _apply(self, word: str, *arguments: Operand) -> Expression:
        if len(arguments) != WORDS[word]:
            raise TypeError(f"ops.{word} takes {WORDS[word]} argument(s); got {len(arguments)}")
        return self._graph.apply(word, *arguments)

    def zeros_like(self, like: Operand) -> Expression:
        return self._graph.constant(0.0)

    def constant(self, value: float, like: Operand) -> Expression:
        return self._graph.constant(value)


def symbolic_ops(graph: Graph) -> Ops:
    """Return the vocabulary on expressions of a graph, to be passed to a cell's functions as `ops`."""
    return cast(Ops, _SymbolicOps(graph))


def symbols(graph: Graph, **counts: int) -> list[tuple[Expression, ...]]:
    """Return symbols for the arguments of a function: per argument, leaves named after it and their numbers."""
    return [tuple([graph.leaf(f"{name} {k}") for k in range(count)]) for name, count in counts.items()]


def reachable(outputs: Iterable[Expression], known: Iterable[Expression] = ()) -> list[Expression]:
    """Return what the outputs are computed from, themselves included, arguments first.

    `known` values and what only they need are left out.
    """
    seen = {value.number for value in known}
    found, todo = [], list(outputs)
    while todo:
        value = todo.pop()
        if value.number not in seen:
            seen.add(value.number)
            found.append(value)
            todo += value.arguments
    return sorted(found, key=lambda value: value.number)


def depending_on(inputs: Iterable[Expression], values: Iterable[Expression]) -> set[int]:
    """Return the numbers of the inputs and of those of the values, given arguments first, that depend on them."""
    found = {value.number for value in inputs}
    for value in values:
        if any(a.number in found for a in value.arguments):
            found.add(value.number)
    return found
