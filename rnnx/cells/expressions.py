"""The symbols that a cell's function is traced with: values of a graph, with the operators of arrays."""

import operator
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rnnx.cells.graph import Graph

OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "neg": operator.neg,
}
# Words by number of arguments; `zeros_like` and `constant` give constants.
WORDS = dict.fromkeys(("tanh", "sigmoid", "relu", "heaviside", "exp", "log", "sqrt", "abs", "sign", "sin", "cos"), 1)
WORDS |= {
    "softplus": 1,
    "log_sigmoid": 1,
    "erf": 1,
    "gelu": 1,
    "floor": 1,
    "mean": 1,
    "maximum": 2,
    "minimum": 2,
    "greater": 2,
    "where": 3,
}
COMMUTATIVE = {"+", "*", "maximum", "minimum"}

Operand = Any  # an Expression or a number


class Expression:
    """A value of a graph: a leaf, a constant, or an operation on other values.

    Attributes
    ----------
    graph : Graph
        The graph that the value belongs to.
    number : int
        Position in the graph. The arguments of an operation have smaller numbers than its result.
    operation : str
        "leaf", "constant", an operator ("+", "-", "*", "/", "neg") or a word of the vocabulary.
    arguments : tuple of Expression
        The operands of the operation.
    data : str, float or None
        Name of a leaf, value of a constant.
    """

    __slots__ = ("arguments", "data", "graph", "number", "operation")
    __array_ufunc__ = None  # makes NumPy's functions raise, and its operators leave the work to those here
    __hash__ = object.__hash__

    def __init__(
        self, graph: "Graph", number: int, operation: str, arguments: tuple["Expression", ...], data: str | float | None
    ) -> None:
        self.graph, self.number, self.operation, self.arguments, self.data = graph, number, operation, arguments, data

    @property
    def is_constant(self) -> bool:
        """Whether the value is a number, the same for every element."""
        return self.operation == "constant"

    @property
    def is_condition(self) -> bool:
        """Whether the value is true or false rather than a number."""
        return self.operation == "greater"

    def _binary(self, operation: str, left: Operand, right: Operand) -> "Expression":
        if not all(isinstance(a, Expression | Real) for a in (left, right)):
            return NotImplemented  # Python then raises a TypeError that names both types
        return self.graph.apply(operation, left, right)

    def __add__(self, other: Operand) -> "Expression":
        return self._binary("+", self, other)

    def __radd__(self, other: Operand) -> "Expression":
        return self._binary("+", other, self)

    def __sub__(self, other: Operand) -> "Expression":
        return self._binary("-", self, other)

    def __rsub__(self, other: Operand) -> "Expression":
        return self._binary("-", other, self)

    def __mul__(self, other: Operand) -> "Expression":
        return self._binary("*", self, other)

    def __rmul__(self, other: Operand) -> "Expression":
        return self._binary("*", other, self)

    def __truediv__(self, other: Operand) -> "Expression":
        return self._binary("/", self, other)

    def __rtruediv__(self, other: Operand) -> "Expression":
        return self._binary("/", other, self)

    def __neg__(self) -> "Expression":
        return self.graph.apply("neg", self)

    def __abs__(self) -> "Expression":
        return self.graph.apply("abs", self)

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a value, which is unknown when it is traced; use ops.where")

    def __gt__(self, other: Operand) -> "Expression":
        return self._binary("greater", self, other)

    def __lt__(self, other: Operand) -> "Expression":
        return self._binary("greater", other, self)

    def _compare(self, other: object) -> NoReturn:
        raise TypeError("a cell compares values with > and <, and selects with where")

    __eq__ = __ne__ = __le__ = __ge__ = _compare

    def __repr__(self) -> str:
        what = self.operation if self.data is None else f"{self.operation} {self.data}"
        return f"<Expression {self.number}: {what}>"
