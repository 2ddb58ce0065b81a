"""Recurrent layers as ONNX nodes: LSTM, GRU and RNN where ONNX has the cell, a Scan of its equations otherwise.

Dimensions: T steps, m examples, n units, n_x inputs. Sequences are (T, m, n).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import CELLS, Cell, Gate
from rnnx.cells.vocabulary import array_ops
from rnnx.convert.blocks import Peer
from rnnx.convert.onnx.graph import Graph, Symbol, symbol_ops, value_info
from rnnx.models.recurrent import Recurrent

Arrays = Mapping[str, np.ndarray]


class Layer(NamedTuple):
    """One layer in one direction."""

    cell: Cell
    parameters: Arrays
    n_a: int
    reverse: bool


class Sources(NamedTuple):
    """The values that a layer reads."""

    x: str  # (T, m, n_x), or indices (T, m)
    indices: bool
    states: Sequence[str]  # (m, n) per state
    lengths: str = ""  # (m,) int64, or ""
    inputs: Mapping[str, str] = {}  # (T, m, n) or (T, m, 1) per name in cell.inputs


# ONNX's operators, and its gates in its order.
_OPERATORS = {"lstm": "LSTM", "gru": "GRU", "gru_reset_after": "GRU", "rnn": "RNN", "relu_rnn": "RNN"}
_GRU = ("bu", "br", "bc")
_RNN = {"rnn": ("ba",), "relu_rnn": ("bg",)}
ONNX = Peer("ONNX", {"lstm": ("bi", "bo", "bf", "bc"), "gru": _GRU, "gru_reset_after": _GRU, **_RNN})


def add_layer(graph: Graph, layer: Layer, sources: Sources) -> tuple[str, list[str]]:
    """Add a layer; return the hidden states of all steps (T, m, n), and all states after each example's last step."""
    if layer.cell in map(CELLS.get, _OPERATORS):
        return _native(graph, layer, sources)
    return _scan(graph, layer, sources)


def add_stack(
    graph: Graph,
    stack: Recurrent,
    parameters: Arrays,
    x: str,
    indices: bool,
    start: Mapping[str, str],
    lengths: str = "",
    inputs: Mapping[str, str] = {},
) -> tuple[str, dict[str, str]]:
    """Add a stack as in evaluation; return its outputs (T, m, n), and its final states by name.

    `start` has the initial states by name; without them they are zero. Other arguments are those of `Sources`.
    """
    final: dict[str, str] = {}
    cell = stack.regularization.evaluation
    for k, layer in enumerate(stack.layers):
        outputs = []
        for one in layer:
            states = [start[name] if start else _zeros(graph, x, size) for name, size in one.state_sizes.items()]
            own = Layer(cell, one.own(parameters), one.hidden_size, one.reverse)
            out, after = add_layer(graph, own, Sources(x, indices and k == 0, states, lengths, inputs))
            outputs.append(out)
            final |= dict(zip(one.state_names, after, strict=True))
        x = outputs[0] if len(outputs) == 1 else graph.add("Concat", *outputs, axis=2)
    return x, final


def size_of(graph: Graph, x: str, axis: int) -> str:
    """Return the size of an axis of a value as a vector (1,)."""
    return str(graph.add("Slice", graph.add("Shape", x), graph.integers(axis), graph.integers(axis + 1)))


def _zeros(graph: Graph, x: str, size: int) -> str:
    shape = graph.add("Concat", size_of(graph, x, 1), graph.integers(size), axis=0)
    return str(graph.add("Expand", graph.constant(0), shape))


def _native(graph: Graph, layer: Layer, sources: Sources) -> tuple[str, list[str]]:
    operator = _OPERATORS[layer.cell.name]
    w, r, *biases = ONNX.to_blocks(layer.cell, layer.parameters, "")[""]
    weights = [w[None], r[None], np.concatenate(biases)[None]]
    names = [graph.constant(value, stem) for value, stem in zip(weights, ("W", "R", "B"), strict=True)]
    x, lengths = sources.x, sources.lengths
    if sources.indices:
        pair = graph.constant([0, 1])
        x = graph.add("OneHot", x, graph.constant(w.shape[1], dtype=np.int64), pair, axis=-1)
    lengths = graph.add("Cast", lengths, to=6) if lengths else ""  # int32
    zero = graph.integers(0)
    start = [graph.add("Unsqueeze", state, zero) for state in sources.states]
    options: dict[str, Any] = {"hidden_size": layer.n_a, "direction": "reverse" if layer.reverse else "forward"}
    if operator == "GRU":
        options["linear_before_reset"] = int(layer.cell.name == "gru_reset_after")
    if layer.cell.name == "relu_rnn":
        options["activations"] = ["Relu"]
    out, *final = graph.add(operator, x, *names, lengths, *start, n=1 + len(start), **options)
    return graph.add("Squeeze", out, graph.integers(1)), [graph.add("Squeeze", state, zero) for state in final]


def _scan(graph: Graph, layer: Layer, sources: Sources) -> tuple[str, list[str]]:
    """Add a loop over time, whose body runs the stages of the cell. Reverse layers run on reversed sequences."""
    cell, n = layer.cell, layer.n_a
    parameters = _with_hoisted(layer)
    x, inputs = sources.x, [sources.inputs[name] for name in cell.inputs]
    if layer.reverse:
        x, inputs = _reversed(graph, x, sources), [_reversed(graph, e, sources) for e in inputs]
    sides = [
        _input_side(graph, gate, parameters, n, x, sources.indices) for stage in cell.stages for gate in stage.of_inputs
    ]
    steps = []
    if sources.lengths:
        n_steps = graph.add("Gather", graph.add("Shape", x), graph.constant(0, dtype=np.int64), axis=0)
        zero, one = (graph.constant(k, dtype=np.int64) for k in (0, 1))
        steps = [graph.add("Range", zero, n_steps, one)]
    scanned = [*sides, *inputs, *steps]
    body = _body(graph.body(), layer, parameters, len(sides), sources.lengths)
    counts = {"n": len(cell.states) + 1, "num_scan_inputs": len(scanned)}
    *final, out = graph.add("Scan", *sources.states, *scanned, body=body, **counts)
    return _reversed(graph, out, sources) if layer.reverse else out, final


def _with_hoisted(layer: Layer) -> Arrays:
    hoisted = layer.cell.hoisted
    if hoisted is None:
        return layer.parameters
    values = hoisted.forward(array_ops(np), *(layer.parameters[key] for key in hoisted.sources))
    return {**layer.parameters, **dict(zip(hoisted.results, values, strict=True))}


def _reversed(graph: Graph, x: str, sources: Sources) -> str:
    """Reverse the steps of a sequence, each example's own."""
    lengths = sources.lengths
    if not lengths:
        lengths = graph.add("Expand", size_of(graph, sources.x, 0), size_of(graph, sources.x, 1))
    return graph.add("ReverseSequence", x, lengths, time_axis=0, batch_axis=1)


def _input_side(graph: Graph, gate: Gate, parameters: Arrays, n: int, x: str, indices: bool) -> str:
    """Add the input side of a gate for all steps, (T, m, n)."""
    w_x, _ = gate.split(parameters, n)
    weights = graph.constant(w_x.T, gate.weights[0])
    side = graph.add("Gather", weights, x, axis=0) if indices else graph.add("MatMul", x, weights)
    if not gate.bias:
        return side
    return graph.add("Add", side, graph.constant(parameters[gate.bias][:, 0], gate.bias))


def _body(body: Graph, layer: Layer, parameters: Arrays, n_sides: int, lengths: str) -> Any:
    """Return the graph of one step."""
    import onnx.helper

    cell, n, ops = layer.cell, layer.n_a, symbol_ops()
    names = {
        k: [body.name(k) for _ in range(count)]
        for k, count in {
            "state": len(cell.states),
            "side": n_sides,
            "input": len(cell.inputs),
            "t": bool(lengths),
        }.items()
    }
    sides = iter([Symbol(body, name) for name in names["side"]])
    inputs = dict(zip(cell.inputs, (Symbol(body, name) for name in names["input"]), strict=True))
    before = s = tuple(Symbol(body, name) for name in names["state"])
    for stage in cell.stages:
        zx = tuple(next(sides) for _ in stage.of_inputs)
        zh = tuple(_recurrent_side(body, gate, parameters, n, s[0]) for gate in stage.recurrent)
        vectors = [Symbol(body, body.constant(parameters[key][:, 0], key)) for key in stage.vectors]
        given = (*vectors, *(inputs[name] for name in stage.inputs))
        s, _ = stage.forward(ops, zx, zh, s, given) if given else stage.forward(ops, zx, zh, s)
    out = s[0]
    if lengths:
        valid = Symbol(body, body.add("Unsqueeze", body.add("Less", names["t"][0], lengths), body.integers(1)))
        s = tuple(new._apply("Where", valid, new, old) for new, old in zip(s, before, strict=True))
        out = out._apply("Where", valid, out, 0)
    results = [body.add("Identity", value.name) for value in (*s, out)]
    widths = [cell.size(state, n) for state in cell.states]
    of_states = [value_info(name, body.dtype, ["m", width]) for name, width in zip(names["state"], widths, strict=True)]
    scanned = [value_info(name, body.dtype, ["m", None]) for name in (*names["side"], *names["input"])]
    scanned += [value_info(name, np.int64, []) for name in names["t"]]
    outputs = [value_info(name, body.dtype, ["m", width]) for name, width in zip(results, [*widths, n], strict=True)]
    return onnx.helper.make_graph(body.nodes, cell.name, [*of_states, *scanned], outputs, body.initializers)


def _recurrent_side(body: Graph, gate: Gate, parameters: Arrays, n: int, operand: Symbol) -> Symbol:
    """Add the recurrent side of a gate, (m, n); that of a gate with heads is a product with a block-diagonal matrix."""
    _, w_h = gate.split(parameters, n)
    if gate.heads != 1:
        d = w_h.shape[1]
        blocks = np.zeros((w_h.shape[0], d * int(gate.heads)), w_h.dtype)
        for head in range(int(gate.heads)):
            rows = slice(head * d, (head + 1) * d)
            blocks[rows, rows] = w_h[rows]
        w_h = blocks
    side = body.add("MatMul", operand.name, body.constant(w_h.T, gate.weights[-1]))
    bias = parameters.get(gate.recurrent_bias or "")
    return Symbol(body, side if bias is None else body.add("Add", side, body.constant(bias[:, 0], "bias")))
