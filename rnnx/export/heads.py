"""The heads of a model in C: their outputs, and what these say.

Dimensions: n targets or classes, n_y = parts n outputs.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from rnnx.cells.graph import Graph, symbolic_ops, symbols
from rnnx.cells.programs import Program
from rnnx.export.code import Code, Value
from rnnx.export.stack import StackCode
from rnnx.export.text import function
from rnnx.models.heads import Readout


class HeadCode:
    """Writes the functions of a head. What they are called ends in its name, unless it is the only one.

    Attributes
    ----------
    name : str
        In the library; "" of the only head.
    end : str
        What names in C end in: "_load" or "".
    y : str
        The argument for its outputs: "y_load" or "y".
    n : int
        Numbers in its outputs.
    size_name : str
        What the header calls this number, after the name of the model.
    classes : bool
        Whether its outputs are logits of classes.
    """

    def __init__(self, code: Code, model: str, name: str, readout: Readout) -> None:
        self.code, self.name, self._readout = code, name, readout
        self.function = code.names(f"head_{name}" if name else "head")
        self.end = self.function.removeprefix("head")
        self.y, self.n, self.per_step = f"y{self.end}", readout.dense.n_out, readout.per_step
        self.objective = readout.objective
        self.classes = self.objective.loss.kind == "classes"
        ends = "probabilities", "predict", "vocabulary"
        self._names = {kind: code.names(f"{model}_{kind}{self.end}") for kind in ends}
        upper = model.upper()
        self.size_name = code.names(f"{upper}_OUTPUTS{self.end.upper()}").removeprefix(f"{upper}_")

    @cached_property
    def predictions(self) -> list[str]:
        """The names of what outputs say; empty if they are the predictions themselves."""
        return ["probability"] if self.classes else list(self.objective.loss.outputs) * self.objective.describes

    def definition(self, stack: StackCode, parameters: Mapping[str, np.ndarray], state_type: str) -> str:
        """Return the function of the dense layer: of its input (both directions at a step), or of the last states."""
        key, layers = self._readout.dense.name, stack.stack
        W = parameters["W" + key].astype(np.float32)
        lines = self.code.start("b" + key, parameters["b" + key], "y")
        if layers.bidirectional and self.per_step:
            argument = "const float *a"
            lines += self.code.product("W" + key, W, "a", "y", exact=True)
        else:
            argument = f"const {state_type} *s"
            for one in layers.layers[-1]:
                part = f"W{key}_reverse" if one.reverse else f"W{key}"
                lines += self.code.product(part, W[:, one.rows], stack.hidden(one), "y", exact=True)
        what = f"The output layer {self.name}." if self.name else "The output layer."
        return function(f"static void {self.function}({argument}, float *y)", lines, what)

    def definitions_of_predictions(self) -> list[str]:
        """Return the functions that compute what outputs say."""
        written = (self.classes, self._probabilities), (self.objective.describes, self._predict)
        return [write() for wanted, write in written if wanted]

    def _probabilities(self) -> str:
        """Return the function that computes the softmax of n logits; one logit is that of the second of two classes."""
        code, n = self.code, self.n
        head = f"void {self._names['probabilities']}(const float *y, float temperature, float *p)"
        if n == 1:
            code.words.add("sigmoid")
            return function(head, ["p[1] = op_sigmoid(y[0] / temperature);", "p[0] = 1.0f - p[1];"])
        code.words.add("exp")
        lines = [
            "float most = y[0], sum = 0.0f;",
            "int u;",
            f"for (u = 1; u < {n}; ++u) most = y[u] > most ? y[u] : most;",
            f"for (u = 0; u < {n}; ++u) p[u] = op_exp((y[u] - most) / temperature);",
            f"for (u = 0; u < {n}; ++u) sum += p[u];",
            f"for (u = 0; u < {n}; ++u) p[u] /= sum;",
        ]
        return function(head, lines)

    def _predict(self) -> str:
        """Return the function that computes what the outputs say, such as quantiles, in the units of the targets."""
        code, (loss, unit) = self.code, (self.objective.loss, self.objective.unit)
        n, graph = self.objective.sizes.n_y, Graph()
        outputs, numbers = symbols(graph, y=len(loss.outputs), unit=0 if unit is None else 2)
        found = self.objective.traced(symbolic_ops(graph), outputs, *numbers)
        names, lines = code.names.within(), ["int u;"]
        sources: list[Value] = [(names(f"y{k}"), f"y[{k * n} + u]") for k in range(len(outputs))]
        if unit is not None:
            for what, values in (("mean", unit.scaler.mean), ("scale", unit.scaler.scale)):
                place, declared = code.pointer(code.constants(f"target_{what}{self.end}", np.array(values)))
                lines += declared
                sources.append((names(what), f"{place}[u]"))
        results = [(names(f"p{k}"), f"p[{k * n} + u]") for k in range(len(found))]
        program = Program([*outputs, *numbers], [graph.output(value) for value in found.values()])
        head = f"void {self._names['predict']}(const float *y, float *p)"
        return function(head, [*lines, *code.loop(program, sources, results, n)])
