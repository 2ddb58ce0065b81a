"""The functions in C that turn outputs into predictions. Dimensions: n targets, n_y = parts n outputs."""

import numpy as np

from rnnx.cells.graph import Graph, symbolic_ops, symbols
from rnnx.cells.programs import Program
from rnnx.export.code import Code, Value
from rnnx.export.text import function
from rnnx.models.objective import Objective


def probabilities(code: Code, name: str, n: int) -> str:
    """Return the function that computes the softmax of n logits; one logit is that of the second of two classes."""
    head = f"void {name}_probabilities(const float *y, float temperature, float *p)"
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


def described(code: Code, name: str, objective: Objective) -> str:
    """Return the function that computes what n_y outputs say, such as quantiles, in the units of the targets."""
    loss, unit = objective.loss, objective.unit
    n, graph = objective.sizes.n_y, Graph()
    outputs, numbers = symbols(graph, y=len(loss.outputs), unit=0 if unit is None else 2)
    found = objective.traced(symbolic_ops(graph), outputs, *numbers)
    names = code.names.within()
    sources: list[Value] = [(names(f"y{k}"), f"y[{k * n} + u]") for k in range(len(outputs))]
    if unit is not None:
        for what, values in (("mean", unit.scaler.mean), ("scale", unit.scaler.scale)):
            sources.append((names(what), f"{code.constants(f'target_{what}', np.array(values))}[u]"))
    results = [(names(f"p{k}"), f"p[{k * n} + u]") for k in range(len(found))]
    program = Program([*outputs, *numbers], [graph.output(value) for value in found.values()])
    head = f"void {name}_predict(const float *y, float *p)"
    return function(head, ["int u;", *code.loop(program, sources, results, n)])
