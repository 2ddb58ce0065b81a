"""An encoder and a decoder as one graph, which decodes greedily in a Loop.

Dimensions: n features, m examples, T_x source steps, T_y target steps. Sequences are (T, m, n).
"""

from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx.cells.cell import STEP
from rnnx.convert.onnx.graph import Graph, value_info
from rnnx.convert.onnx.layers import add_stack, size_of
from rnnx.models.recurrent import Recurrent
from rnnx.models.seq2seq import Seq2Seq

_INT64, _BOOL = 7, 9  # ONNX's numbers of the types


class Seq2SeqExporter:
    """Builds the graph of a model."""

    def __init__(self, model: Seq2Seq, with_lengths: bool) -> None:
        self.model = model
        self.parameters = {name: ns.to_host(a) for name, a in model.parameters.items()}
        self.dtype = next(iter(self.parameters.values())).dtype
        self.onnx = Graph(self.dtype)
        self.lengths = "source_lengths" if with_lengths else ""

    def graph(self) -> Any:
        """Return the whole graph."""
        from onnx import helper

        graph, model = self.onnx, self.model
        n_steps = graph.add("Squeeze", size_of(graph, "source", 0), graph.integers(0))
        zero, one = (graph.constant(k, dtype=np.int64) for k in (0, 1))
        steps = graph.add("Range", zero, n_steps, one)
        inputs = self._defaults(graph, model.encoder, steps, "source")
        encoded, final = add_stack(graph, model.encoder, self.parameters, "source", True, {}, self.lengths, inputs)
        states = self._bridge(final)
        m = size_of(graph, "source", 1)
        token = graph.add("Expand", graph.constant(model.end_token, dtype=np.int64), m)
        running = graph.add("Expand", graph.constant(True, dtype=bool), m)
        start = graph.constant(True, dtype=bool)
        attend = None if model.attention is None else self._keys(encoded, steps)
        body = self._body(graph.body(), list(states), attend)
        n = len(states) + 3 + (attend is not None)
        found = graph.add("Loop", "max_length", start, *states.values(), token, running, body=body, n=n)
        indices = found[len(states) + 2]
        graph.rename(indices, "indices")
        differs = graph.add("Not", graph.add("Equal", indices, graph.constant(model.end_token, dtype=np.int64)))
        counted = graph.add("ReduceSum", graph.add("Cast", differs, to=_INT64), graph.integers(0), keepdims=0)
        graph.rename(counted, "lengths")
        outputs = [value_info("indices", np.int64, ["T_y", "m"]), value_info("lengths", np.int64, ["m"])]
        if attend:
            graph.rename(found[-1], "weights")
            outputs.append(value_info("weights", self.dtype, ["T_y", "m", "T_x"]))
        given = [value_info("source", np.int64, ["T_x", "m"]), value_info("max_length", np.int64, [])]
        given += [value_info(self.lengths, np.int64, ["m"])] if self.lengths else []
        return helper.make_graph(graph.nodes, model.kind, given, outputs, graph.initializers)

    def _defaults(self, graph: Graph, stack: Recurrent, steps: str, like: str) -> dict[str, str]:
        """Return the inputs of the cells besides x, (T, m, 1), for the numbers of the steps (T,) of a value (T, m)."""
        shape = graph.add("Concat", graph.add("Shape", like), graph.integers(1), axis=0)
        found = {}
        for name, value in stack.cell.defaults:
            if value == STEP:
                number = graph.add("Cast", steps, to=value_info("", self.dtype, []).type.tensor_type.elem_type)
                value = graph.add("Unsqueeze", number, graph.integers(1, 2))
            else:
                value = graph.constant(value)
            found[name] = graph.add("Expand", value, shape)
        return found

    def _dense(self, graph: Graph, name: str, x: str) -> str:
        W, b = (graph.constant(self.parameters[key + name].T, key) for key in ("W", "b"))
        return str(graph.add("Add", graph.add("MatMul", x, W), b))

    def _bridge(self, final: dict[str, str]) -> dict[str, str]:
        """Return the initial states of the decoder by name."""
        bridge, graph = self.model.network.bridge, self.onnx
        if not bridge.parts:
            return {state: final[source] for state, (source,), _ in bridge.links}
        states = {}
        for state, sources, dense in bridge.links:
            s = graph.add("Concat", *(final[source] for source in sources), axis=1)
            states[state] = graph.add("Tanh", self._dense(graph, dense.name, s))
        return states

    def _keys(self, encoded: str, steps: str) -> tuple[str, str, str]:
        """Return the encoder outputs (T_x, m, n_e), their keys (T_x, m, n), and which steps (T_x, m) are padding."""
        graph, keys, padding = self.onnx, encoded, ""
        if "Wk_attention" in self.parameters:
            keys = graph.add("MatMul", encoded, graph.constant(self.parameters["Wk_attention"].T, "Wk"))
        if self.lengths:
            column = graph.add("Unsqueeze", steps, graph.integers(1))
            padding = graph.add("GreaterOrEqual", column, self.lengths)
        return encoded, keys, padding

    def _body(self, body: Graph, states: list[str], attend: tuple[str, str, str] | None) -> Any:
        """Return the graph of one step of the decoder."""
        from onnx import helper

        model, add = self.model, body.add
        number, going, token, running = (body.name(stem) for stem in ("number", "going", "token", "running"))
        start = {state: body.name(state) for state in states}
        x = add("Unsqueeze", token, body.integers(0))
        inputs = self._defaults(body, model.decoder, add("Unsqueeze", number, body.integers(0)), x)
        out, final = add_stack(body, model.decoder, self.parameters, x, True, start, "", inputs)
        a = add("Squeeze", out, body.integers(0))
        scans = []
        if attend:
            a, weights = self._attend(body, a, *attend)
            mask = add("Cast", running, to=value_info("", self.dtype, []).type.tensor_type.elem_type)
            scans = [add("Mul", add("Transpose", weights, perm=[1, 0]), add("Unsqueeze", mask, body.integers(1)))]
        best = add("ArgMax", self._dense(body, "y", a), axis=1, keepdims=0)
        end = body.constant(model.end_token, dtype=np.int64)
        best = add("Where", running, best, end)
        left = add("And", running, add("Not", add("Equal", best, end)))
        any_left = add("Cast", add("ReduceMax", add("Cast", left, to=_INT64), keepdims=0), to=_BOOL)
        carried = [*(final[state] for state in states), best, left]
        results = [add("Identity", name) for name in (any_left, *carried, best, *scans)]
        sizes = {k: n for one in model.decoder.directions for k, n in one.state_sizes.items()}
        kinds: list[tuple[Any, list[Any]]] = [(self.dtype, ["m", sizes[state]]) for state in states]
        kinds += [(np.int64, ["m"]), (np.bool_, ["m"])]
        given = [value_info(number, np.int64, []), value_info(going, np.bool_, [])]
        given += [value_info(name, *kind) for name, kind in zip([*start.values(), token, running], kinds, strict=True)]
        kinds = [(np.bool_, []), *kinds, (np.int64, ["m"]), *[(self.dtype, ["m", "T_x"]) for _ in scans]]
        after = [value_info(name, *kind) for name, kind in zip(results, kinds, strict=True)]
        return helper.make_graph(body.nodes, "step", given, after, body.initializers)

    def _attend(self, body: Graph, a: str, encoded: str, keys: str, padding: str) -> tuple[str, str]:
        """Return the outputs (m, n) and the attention weights (T_x, m) for decoder states a (m, n)."""
        add, attention = body.add, self.model.attention
        assert attention is not None
        if attention.kind == "additive":
            Wq, ba, va = (self.parameters[key + "_attention"] for key in ("Wq", "ba", "va"))
            query = add("Add", add("MatMul", a, body.constant(Wq.T, "Wq")), body.constant(ba[:, 0], "ba"))
            scores = add("MatMul", add("Tanh", add("Add", keys, query)), body.constant(va[:, 0], "va"))
        else:
            scores = add("ReduceSum", add("Mul", keys, a), body.integers(2), keepdims=0)
            if attention.kind == "scaled_dot":
                scores = add("Div", scores, body.constant(attention.n**0.5))
        if padding:
            scores = add("Where", padding, body.constant(np.finfo(self.dtype).min), scores)
        weights = add("Softmax", scores, axis=0)
        if padding:  # also of sources without steps
            weights = add("Where", padding, body.constant(0), weights)
        weighted = add("Mul", add("Unsqueeze", weights, body.integers(2)), encoded)
        context = add("ReduceSum", weighted, body.integers(0), keepdims=0)
        joined = add("Concat", context, a, axis=1)
        return add("Tanh", self._dense(body, "c_attention", joined)), weights
