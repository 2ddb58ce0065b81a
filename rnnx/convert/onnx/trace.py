"""Where the elements of a file's values come from: its graph, run on numbers in place of elements.

Sizes that the file leaves open become small primes. Nodes of constants run as usual. Nodes that only move elements
(Transpose, Reshape, Slice, ...) move their numbers, so every arrangement is recognized, however an exporter writes it.
Inputs, recurrent nodes, embeddings, dense layers and softmax make new elements.

Dimensions: T steps, m examples, n units, k outputs, F features, R rows: steps of examples, or examples.
"""

import itertools
from typing import Any

import numpy as np

from rnnx.convert.onnx.elements import (
    Dense,
    Elements,
    Embedding,
    Input,
    Scaled,
    Unknown,
    Value,
    attributes,
    error,
    find,
    simplified,
    title,
)
from rnnx.convert.onnx.recurrent_node import RECURRENT, RecurrentNode

_MOVES = {
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherElements", "GatherND",
    "Concat", "Split", "Expand", "Tile", "ReverseSequence",
}  # fmt: skip
_SAME = {"Identity", "Dropout", "Cast", "CastLike"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_PRIMES = (5, 3, 7, 11, 13, 17, 19, 23)


def _fits(constant: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether broadcasting makes a constant an array of this shape."""
    sizes = zip(constant.shape[::-1], shape[::-1], strict=False)
    return constant.ndim <= len(shape) and all(size in (1, full) for size, full in sizes)


class Trace:
    """The values of a file, and what makes new elements in it."""

    def __init__(self, proto: Any) -> None:
        self.inputs: list[Input] = []
        self.embeddings: list[Embedding] = []
        self.scaled: list[Scaled] = []
        self.recurrent: list[RecurrentNode] = []
        self.dense: list[Dense] = []
        self.values: dict[str, Value] = {}
        self._count = 0
        self._opsets = list(proto.opset_import)
        self._version = max((o.version for o in self._opsets if o.domain in ("", "ai.onnx")), default=1)
        self._read_inputs(proto.graph)
        for node in proto.graph.node:
            self._add(node, [self.values.get(name) for name in node.input])

    def new(self, *shape: int) -> np.ndarray:
        """Return the numbers of new elements."""
        first, self._count = self._count, self._count + int(np.prod(shape))
        return np.arange(first, self._count).reshape(shape)

    def _read_inputs(self, graph: Any) -> None:
        import onnx

        for tensor in graph.initializer:
            self.values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        primes, sizes = itertools.chain(_PRIMES, itertools.count(29)), dict[str, int]()
        for info in graph.input:
            if info.name in self.values:
                continue
            kind = info.type.tensor_type
            shape = []
            for place, dim in enumerate(kind.shape.dim):
                name = dim.dim_param or f"{info.name} {place}"
                shape.append(dim.dim_value or sizes.get(name) or sizes.setdefault(name, next(primes)))
            if not kind.HasField("shape"):
                self.values[info.name] = Unknown(f"the input {info.name!r}, which has no shape")
                continue
            self.inputs.append(Input(info.name, self.new(*shape)))
            is_integer = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).kind in "iu"
            self.values[info.name] = Elements(self.inputs[-1].numbers, is_integer)

    def _add(self, node: Any, values: list[Value]) -> None:
        unknown = next((value for value in values if isinstance(value, Unknown)), None)
        if node.op_type in RECURRENT and node.domain in ("", "ai.onnx"):
            if unknown:
                raise error(node, f"it depends on {unknown.reason}")
            found = RecurrentNode(node, values, self)
            self.recurrent.append(found)
            results: list[Value] = list(found.outputs)
        else:
            simple = simplified(node.op_type, values)
            unknown = unknown if simple is None else None
            results = [simple] if simple is not None else [unknown] if unknown else self._run(node, values)
        rest = Unknown(title(node))
        for name, value in itertools.zip_longest(node.output, results[: len(node.output)], fillvalue=None):
            self.values[str(name)] = unknown or (rest if value is None else value)

    def _run(self, node: Any, values: list[Value]) -> list[Value]:
        """Return the outputs of a node, as far as they are known."""
        kind, known = node.op_type, Unknown(title(node))
        if node.domain not in ("", "ai.onnx") or kind in _RANDOM or any(a.type in (5, 10) for a in node.attribute):
            return [known]  # 5, 10: attributes that are graphs
        depends = [isinstance(value, Elements) for value in values]
        if not any(depends):
            return self._evaluate(node, values)
        if kind in ("Shape", "Size"):
            return self._evaluate(node, [value.numbers if isinstance(value, Elements) else value for value in values])
        if kind in _SAME:
            return [self._same(node, values) or known]
        if kind in ("Gather", "OneHot") and isinstance(values[0 if kind == "OneHot" else 1], Elements):
            return [self._embedding(node, values) or known]
        if kind in _MOVES and depends[0] and (kind == "Concat" or not any(depends[1:])):
            return self._move(node, values)
        if kind in ("Add", "Sub", "Mul", "Div"):
            return [(self._bias(values) if kind == "Add" else None) or self._scaled(kind, values) or known]
        make = {"MatMul": self._product, "Gemm": self._product}.get(kind)
        if kind in ("Softmax", "LogSoftmax"):
            make = self._softmax
        return [(make(node, values) if make else None) or known]

    def _evaluate(self, node: Any, values: list[Value]) -> list[Value]:
        import onnx.reference
        from onnx import helper

        given = {name: value for name, value in zip(node.input, values, strict=True) if name}
        ends = [helper.make_empty_tensor_value_info(name) for name in (*given, *node.output) if name]
        graph = helper.make_graph([node], "node", ends[: len(given)], ends[len(given) :])
        model = helper.make_model(graph, opset_imports=self._opsets)
        try:
            found = iter(onnx.reference.ReferenceEvaluator(model).run(None, given))
        except Exception as reason:  # whatever a node does not accept
            return [Unknown(f"{title(node)}, which fails: {str(reason).partition(chr(10))[0]}")]
        return [next(found) if name else None for name in node.output]

    def _move(self, node: Any, values: list[Value]) -> list[Value]:
        if not all(isinstance(value, Elements) for value in (values if node.op_type == "Concat" else values[:1])):
            return [Unknown(f"{title(node)}, which joins data and constants")]
        is_integer = any(value.is_integer for value in values if isinstance(value, Elements))
        moved = self._evaluate(node, [value.numbers if isinstance(value, Elements) else value for value in values])
        return [Elements(value, is_integer) if isinstance(value, np.ndarray) else value for value in moved]

    def _same(self, node: Any, values: list[Value]) -> Value:
        x, options = values[0], attributes(node)
        assert isinstance(x, Elements)
        if node.op_type == "Cast":
            if options["to"] == 9:  # bool
                return None
            return Elements(x.numbers, x.is_integer or options["to"] in (2, 3, 4, 5, 6, 7, 12, 13))
        training = values[2] if node.op_type == "Dropout" and len(values) > 2 else None
        return x if training is None or (isinstance(training, np.ndarray) and not training.any()) else None

    def _embedding(self, node: Any, values: list[Value]) -> Value:
        options, table = attributes(node), values[0]
        indices = values[0 if node.op_type == "OneHot" else 1]
        assert isinstance(indices, Elements)
        if node.op_type == "Gather":
            if not isinstance(table, np.ndarray) or table.ndim != 2 or options.get("axis", 0) not in (0, -2):
                return None
        else:
            _, depth, pair = values
            if not isinstance(depth, np.ndarray) or not isinstance(pair, np.ndarray):
                return None
            if options.get("axis", -1) not in (-1, indices.numbers.ndim):
                return None
            table = np.where(np.eye(int(depth.item()), dtype=bool), pair[1], pair[0])
            table = table if table.dtype.kind == "f" else table.astype(np.float32)  # a Cast follows
        found = self.new(*indices.numbers.shape, table.shape[1])
        self.embeddings.append(Embedding(found.reshape(-1, table.shape[1]), table, indices.numbers.ravel()))
        return Elements(found)

    def _product(self, node: Any, values: list[Value]) -> Value:
        x, weights, *rest = values
        options = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes(node)
        if not isinstance(x, Elements) or x.is_integer or not isinstance(weights, np.ndarray) or options["transA"]:
            return None
        if weights.ndim != 2 or any(isinstance(value, Elements) for value in rest):
            return None
        weights = weights if options["transB"] else weights.T
        if options["alpha"] != 1:
            weights = (options["alpha"] * weights).astype(weights.dtype)
        bias = np.zeros_like(weights[:, 0])
        if rest and isinstance(rest[0], np.ndarray):
            shape = (int(x.numbers.size / weights.shape[1]), weights.shape[0])
            bias = np.broadcast_to((options["beta"] * rest[0]).astype(weights.dtype), shape)
            if (bias != bias[0]).any():
                return None
            bias = bias[0]
        return self._dense(x.numbers.shape[:-1], x.numbers.reshape(-1, x.numbers.shape[-1]), weights, bias)

    def _dense(self, shape: tuple[int, ...], x: np.ndarray, weights: Any, bias: Any) -> Elements:
        found = self.new(*shape, len(weights))
        self.dense.append(Dense(found.reshape(-1, len(weights)), x, weights, bias))
        return Elements(found)

    def _bias(self, values: list[Value]) -> Value:
        (x, bias) = values if isinstance(values[0], Elements) else values[::-1]
        if not isinstance(x, Elements) or not isinstance(bias, np.ndarray):
            return None
        shape = x.numbers.shape
        for one in self.dense:
            found = find(x.numbers, one.rows)
            fits = _fits(bias, shape)
            if found and fits and one.weights is not None and one.bias is not None:
                columns, rows = found
                added = np.broadcast_to(bias, shape).reshape(-1, len(columns))
                if (added == added[0]).all():
                    both = one.bias[columns] + added[0]
                    return self._dense(rows.shape, one.x[rows.ravel()], one.weights[columns], both)
        return None

    def _scaled(self, kind: str, values: list[Value]) -> Value:
        swapped = not isinstance(values[0], Elements)
        (x, c) = values[::-1] if swapped else values
        if not isinstance(x, Elements) or x.is_integer or not isinstance(c, np.ndarray) or (swapped and kind == "Div"):
            return None
        before = [given.numbers for given in self.inputs]
        before += [one.rows for one in self.embeddings] + [one.rows for one in self.scaled]
        shape = x.numbers.shape
        if not any(np.isin(x.numbers, known).all() for known in before) or not _fits(c, shape):
            return None
        constants = np.broadcast_to(c, shape).reshape(-1, shape[-1]).astype(np.float64)
        if (constants != constants[0]).any():
            return None
        number = constants[0]
        factor, offset = np.ones_like(number), np.zeros_like(number)
        if kind in ("Mul", "Div"):
            factor = number if kind == "Mul" else 1 / number
        else:
            factor, offset = (-factor, number) if swapped and kind == "Sub" else (factor, number)
            offset = -offset if kind == "Sub" and not swapped else offset
        found = self.new(*shape)
        rows, source = (numbers.reshape(-1, shape[-1]) for numbers in (found, x.numbers))
        self.scaled.append(Scaled(rows, source, factor, offset))
        return Elements(found)

    def _softmax(self, node: Any, values: list[Value]) -> Value:
        x = values[0]
        assert isinstance(x, Elements)
        axis, last = attributes(node).get("axis", -1 if self._version >= 13 else 1), x.numbers.ndim - 1
        if self._version < 13 and axis != last:  # it flattens the axes from this one on
            return None
        found = self.new(*x.numbers.shape)
        k = found.shape[axis]
        rows, source = (np.moveaxis(numbers, axis, -1).reshape(-1, k) for numbers in (found, x.numbers))
        self.dense.append(Dense(rows, source, None, None))
        return Elements(found)
