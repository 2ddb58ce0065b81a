"""A graph of ONNX nodes under construction, and symbols that a cell's functions can compute with."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnx.cells.vocabulary import Condition, Ops, value_of

OPSET, IR_VERSION = 17, 8


class Graph:
    """The nodes and constants of a graph, or of a body in it, which sees the values of the graph around it."""

    def __init__(self, dtype: np.dtype, numbers: "itertools.count[int] | None" = None) -> None:
        self.dtype, self.nodes, self.initializers = dtype, [], []  # type: tuple[np.dtype, list[Any], list[Any]]
        self._numbers = numbers or itertools.count()
        self._constants: dict[tuple[float, str], str] = {}

    def body(self) -> "Graph":
        """Return a graph for the body of a loop."""
        return Graph(self.dtype, self._numbers)

    def name(self, stem: str) -> str:
        """Return a new name, which is no identifier, as names of users are."""
        return f"{stem}.{next(self._numbers)}"

    def constant(self, value: Any, stem: str = "constant", dtype: Any = None) -> str:
        """Return the name of a constant; numbers of the same value share one."""
        import onnx.numpy_helper

        array = np.asarray(value, dtype or self.dtype)
        key = (float(array), array.dtype.str) if not array.shape else None
        if key in self._constants:
            return self._constants[key]
        name = self.name(stem)
        self.initializers.append(onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        if key:
            self._constants[key] = name
        return name

    def integers(self, *values: int) -> str:
        """Return the name of a constant vector of integers."""
        return self.constant(values, dtype=np.int64)

    def add(self, operator: str, *inputs: str, n: int = 1, **attributes: Any) -> Any:
        """Add a node; return the name of its output, or a list of n names."""
        import onnx.helper

        names = [self.name(operator.lower()) for _ in range(n)]
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names[0] if n == 1 else names

    def rename(self, name: str, result: str) -> None:
        """Give a value the name of a result."""
        import onnx.helper

        self.nodes.append(onnx.helper.make_node("Identity", [name], [result]))


class Symbol:
    """A value in a graph, (m, units). Numbers are constants."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def _apply(self, operator: str, *operands: Any) -> "Symbol":
        names = [operand.name if isinstance(operand, Symbol) else self.graph.constant(operand) for operand in operands]
        return Symbol(self.graph, self.graph.add(operator, *names))

    def __add__(self, other: Any) -> "Symbol":
        return self._apply("Add", self, other)

    def __radd__(self, other: Any) -> "Symbol":
        return self._apply("Add", other, self)

    def __sub__(self, other: Any) -> "Symbol":
        return self._apply("Sub", self, other)

    def __rsub__(self, other: Any) -> "Symbol":
        return self._apply("Sub", other, self)

    def __mul__(self, other: Any) -> "Symbol":
        return self._apply("Mul", self, other)

    def __rmul__(self, other: Any) -> "Symbol":
        return self._apply("Mul", other, self)

    def __truediv__(self, other: Any) -> "Symbol":
        return self._apply("Div", self, other)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return self._apply("Div", other, self)

    def __neg__(self) -> "Symbol":
        return self._apply("Neg", self)

    def __abs__(self) -> "Symbol":
        return self._apply("Abs", self)


_NODES = {
    "tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "sign": "Sign", "floor": "Floor", "sin": "Sin", "cos": "Cos", "softplus": "Softplus", "erf": "Erf",
}  # fmt: skip


def symbol_ops() -> Ops:
    """Return the vocabulary of cells, on symbols."""

    def unary(operator: str) -> Callable[[Symbol], Symbol]:
        return lambda x: x._apply(operator, x)

    def of_two(operator: str) -> Callable[[Any, Any], Symbol]:
        return lambda a, b: _one_of(a, b)._apply(operator, a, b)

    def constant(value: float, like: Symbol) -> Symbol:
        return like._apply("Expand", value, like._apply("Shape", like))

    def mean(x: Symbol) -> Symbol:
        over_units = x.graph.add("ReduceMean", x.name, axes=[-1], keepdims=1)
        return x._apply("Expand", Symbol(x.graph, over_units), x._apply("Shape", x))

    def heaviside(x: Symbol) -> Symbol:
        return x._apply("Where", x._apply("Greater", x, 0), 1, 0)

    return Ops(
        **{word: unary(operator) for word, operator in _NODES.items()},
        heaviside=heaviside,
        zeros_like=lambda x: constant(0, x),
        log_sigmoid=lambda x: -x._apply("Softplus", -x),
        gelu=lambda x: x * (0.5 + 0.5 * x._apply("Erf", x * 0.5**0.5)),
        mean=mean,
        maximum=of_two("Max"),
        minimum=of_two("Min"),
        greater=lambda a, b: Condition(_one_of(a, b)._apply("Greater", a, b)),
        where=lambda condition, a, b: value_of(condition)._apply("Where", value_of(condition), a, b),
        constant=constant,
    )


def _one_of(*operands: Any) -> Symbol:
    return next(operand for operand in operands if isinstance(operand, Symbol))


def value_info(name: str, dtype: Any, shape: Sequence[str | int | None]) -> Any:
    """Describe an input or output; sizes that a file leaves open are given by name."""
    import onnx.helper

    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
