"""One step of a recurrent layer as a function in C.

Dimensions: n units of a stage, n_x inputs, G gates.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rnnx.cells import Cell, Gate
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, reachable, symbolic_ops, symbols
from rnnx.cells.parameters import StageWeights, stack_weights
from rnnx.cells.programs import Program
from rnnx.cells.vocabulary import array_ops
from rnnx.cells.wiring import Slot, StageWiring, name_of, wiring
from rnnx.export.code import Code, Value
from rnnx.export.text import Names, comment, indented

Arrays = Mapping[str, np.ndarray]


class Layer(NamedTuple):
    """One layer in one direction."""

    cell: Cell
    parameters: Arrays
    suffix: str
    n_x: int
    n_a: int
    states: Sequence[str]  # the names of the arrays in the state
    indices: bool


def layer_function(code: Code, layer: Layer, state_type: str) -> tuple[str, str]:
    """Return the name and the definition of the function that runs one step of a layer."""
    body = [line for stage in wiring(layer.cell) for line in _Stage(code, layer, stage).lines()]
    text = "\n".join(body)
    counters = [name for name in "uhg" if f"({name} = 0;" in text]
    name = code.names(f"step{layer.suffix}")
    arguments = [f"{state_type} *restrict s", "int32_t x" if layer.indices else "const float *x"]
    arguments += ["const float *extra"] * bool(layer.cell.inputs)
    lines = [
        f"/* A step of a layer of {layer.n_a} units: {comment(layer.cell.name)}. */",
        f"static void {name}({', '.join(arguments)}) {{",
        *[f"  int {', '.join(counters)};"] * bool(counters),
        *["  (void)x;"] * (not any(stage.of_inputs for stage in layer.cell.stages)),
        *indented(body),
        "}",
    ]
    return name, "\n".join(lines)


def with_hoisted(cell: Cell, parameters: Arrays) -> Arrays:
    """Return the parameters with the vectors that are computed from parameters alone."""
    if cell.hoisted is None:
        return parameters
    values = cell.hoisted.forward(array_ops(np), *(parameters[key] for key in cell.hoisted.sources))
    return {**parameters, **dict(zip(cell.hoisted.results, values, strict=True))}


class _Stage:
    """A stage of a layer."""

    def __init__(self, code: Code, layer: Layer, wired: StageWiring) -> None:
        self.code, self.layer, self.wired = code, layer, wired
        self.n = wired.units(layer.n_a)
        several = len(wiring(layer.cell)) > 1
        self.suffix = f"{wired.number}{layer.suffix}" if several else layer.suffix
        self.weights = stack_weights(np, wired, layer.parameters, layer.n_x, layer.n_a)

    def lines(self) -> list[str]:
        """Return the products and the loops of the stage."""
        return [*self._products(), *self._elementwise()]

    def _products(self) -> list[str]:
        code, wired, w, n = self.code, self.wired, self.weights, self.n
        lines = []
        if wired.n_zx:
            lines += self._input_side(code.memory("zx", wired.n_zx * n), w)
        if wired.n_zh:
            zh = "s->zx" if wired.adds_sides else code.memory("zh", wired.n_zh * n)
            if not wired.adds_sides:
                lines += self._start(zh, wired.n_zh * n, "bh", w.bh)
            lines += code.product(f"wh{self.suffix}", w.wh, self._place(wired.operand), zh, wired.heads)
        return lines

    def _input_side(self, zx: str, w: StageWeights) -> list[str]:
        """Return the lines that set zx to W_x x and the biases."""
        size, code = self.wired.n_zx * self.n, self.code
        b = w.b + w.bh if self.wired.adds_sides and w.bh is not None else w.b
        start = self._start(zx, size, "b", b)
        if not self.layer.indices:
            return start + code.product(f"wx{self.suffix}", w.wx, "x", zx)
        return start + code.column(f"wx{self.suffix}", w.wx, zx)

    def _start(self, z: str, size: int, name: str, bias: np.ndarray | None) -> list[str]:
        if bias is None:
            return [f"for (u = 0; u < {size}; ++u) {z}[u] = 0.0f;"]
        return self.code.start(f"{name}{self.suffix}", bias, z)

    def _place(self, slot: Slot) -> str:
        """Return the array that holds a value."""
        if slot.kind == "state":
            return f"s->{self.layer.states[slot.number]}"
        name = name_of(self.layer.cell, slot)
        return self.code.memory(f"v{slot.number}", self.layer.cell.size(name, self.layer.n_a))

    def _elementwise(self) -> list[str]:
        """Return the loops over the units: one per nesting depth of means, and the one that writes the results."""
        known, sources, results, names, lines = self._traced()
        values, depth = reachable(results), dict[int, int]()
        for value in values:
            own = value.operation == "mean"
            depth[value.number] = max((depth[a.number] for a in value.arguments), default=0) + own
        means = [value for value in values if value.operation == "mean"]
        for level in sorted({depth[value.number] for value in means}):
            found = [value for value in means if depth[value.number] == level]
            lines += self._means(found, known, sources, names)
        written = []
        for slot, value in zip(self.wired.writes, results, strict=True):
            place = f"{self._place(slot)}[u]"
            if (value.number, place) not in [(v.number, source) for v, (_, source) in zip(known, sources, strict=True)]:
                written.append((value, (names(f"{name_of(self.layer.cell, slot)}_next"), place)))
        program = Program(known, [value for value, _ in written])
        return lines + self.code.loop(program, sources, [result for _, result in written], self.n)

    def _means(
        self, means: Sequence[Expression], known: list[Expression], sources: list[Value], names: Names
    ) -> list[str]:
        """Return the lines that compute means, and add them to the known values."""
        code, n = self.code, self.n
        code.words.add("mean")
        places = [code.memory(f"m{k}", n) for k in range(len(means))]
        terms = [(names("term"), f"{place}[u]") for place in places]
        lines = code.loop(Program(known, [value.arguments[0] for value in means]), sources, terms, n)
        for value, place in zip(means, places, strict=True):
            name = names(f"mean{self.wired.number}")  # stages share the scope of the function
            lines.append(f"const float {name} = op_mean({place}, {n});")
            known.append(value)
            sources.append((name, ""))
        return lines

    def _traced(self) -> tuple[list[Expression], list[Value], list[Expression], Names, list[str]]:
        """Trace the stage; return the leaves, their names and sources, what is written, the names of its loops, and
        declarations.
        """
        wired, cell, code, graph = self.wired, self.layer.cell, self.code, Graph()
        counts = {"x": wired.n_zx, "h": wired.n_zh, "s": len(wired.reads), "v": len(wired.vectors + wired.inputs)}
        zx, zh, reads, given = symbols(graph, **counts)
        named = self._sides("zx", wired.stage.of_inputs)
        if wired.adds_sides:
            leaves, zh = [*zx, *reads, *given], (graph.constant(0.0),) * wired.n_zh
        else:
            leaves = [*zx, *zh, *reads, *given]
            named += self._sides("zh", wired.stage.recurrent)
        named += [(name_of(cell, slot), f"{self._place(slot)}[u]") for slot in wired.reads]
        lines = list[str]()
        for slot, vector in zip(wired.vectors, self.weights.vectors, strict=True):
            name = name_of(cell, slot)
            place, declared = code.pointer(code.constants(f"{name}{self.layer.suffix}", vector))
            lines += declared
            named.append((name, f"{place}[u]"))
        named += [(name_of(cell, slot), f"extra[{slot.number}]") for slot in wired.inputs]
        new, _ = wired.forward(symbolic_ops(graph), zx, zh, reads, given)
        names = code.names.within()
        sources = [(names(name), source) for name, source in named]
        return leaves, sources, [graph.output(value) for value in new], names, lines

    def _sides(self, side: str, gates: Sequence[Gate]) -> list[Value]:
        """Return names and sources of a side of gates."""
        places = [f"{k * self.n} + u" if k else "u" for k in range(len(gates))]
        return [(f"{side}_{gate.short_name}", f"s->{side}[{place}]") for gate, place in zip(gates, places, strict=True)]
