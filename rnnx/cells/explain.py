"""A cell's equations as text."""

from collections.abc import Sequence
from itertools import chain

from rnnx.cells.cell import Cell
from rnnx.cells.graph import Graph, symbolic_ops, symbols
from rnnx.cells.programs import Program
from rnnx.cells.wiring import Slot, StageWiring, wiring


def explain(cell: Cell) -> str:
    """Return the forward and backward functions of every stage, with the products before and between them."""
    parts = [f"Cell {cell.name!r} with the states {', '.join(cell.states)}"]
    if cell.hoisted:
        graph = Graph()
        sources = [graph.leaf(key) for key in cell.hoisted.sources]
        results = cell.hoisted.forward(symbolic_ops(graph), *sources)
        text = Program(sources, results).text(cell.hoisted.sources, _names(cell.hoisted.results))
        parts.append(_block("Once per sequence", text))
    stages = wiring(cell)
    for stage in stages:
        title = f"Stage {stage.number + 1} of {len(stages)}" if len(stages) > 1 else ""
        title += f", {stage.width or 'n_a'} units" if cell.has_widths else ""
        parts += _Stage(cell, stage).blocks(f"{title}: " if title else "")
    return "\n\n".join(parts) + "\n"


class _Stage:
    """The names of a stage's values."""

    def __init__(self, cell: Cell, stage: StageWiring) -> None:
        self.cell, self.stage = cell, stage
        self.zx = [f"{gate.short_name}_x" for gate in stage.stage.of_inputs]
        self.zh = [f"{gate.short_name}_h" for gate in stage.stage.recurrent]
        self.reads, self.writes = self._values(stage.reads), self._values(stage.writes)
        (self.operand,) = self._values([stage.operand])
        self.saved = _names(stage.stage.saved)
        self.given = _names((*stage.stage.vectors, *stage.stage.inputs))

    def _values(self, slots: Sequence[Slot]) -> list[str]:
        names = []
        for slot in slots:
            if slot.kind == "state":
                names.append(self.cell.states[slot.number] + ("" if slot.after else "_prev"))
            else:
                names.append(self.cell.saved[slot.number])
        return names

    def blocks(self, title: str) -> list[str]:
        """Return the products, the forward and the backward function."""
        products = []
        for gate, name in zip(self.stage.stage.of_inputs, self.zx, strict=True):
            key = f"{gate.weights[0]}[:, {gate.columns_in_symbols}:]" if gate.is_joint else gate.weights[0]
            products.append(f"{name} = {key} @ x" + (f" + {gate.bias}" if gate.bias else ""))
        for gate, name in zip(self.stage.stage.recurrent, self.zh, strict=True):
            key = f"{gate.weights[-1]}[:, :{gate.columns_in_symbols}]" if gate.is_joint else gate.weights[-1]
            key = key if gate.heads == 1 else f"block_diagonal({key})"
            bias = f" + {gate.recurrent_bias}" if gate.recurrent_bias else ""
            products.append(f"{name} = {key} @ {self.operand}{bias}")
        saved = f"{title}Saved: {', '.join(self.saved) or 'nothing'}"
        forward, backward = _block(f"{title}Forward", self._forward()), _block(f"{title}Backward", self._backward())
        return [_block(f"{title}Products", "\n".join(products)), forward, saved, backward]

    def _forward(self) -> str:
        graph = Graph()
        names = {"zx": self.zx, "zh": self.zh, "s": self.reads, "given": self.given}
        leaves = symbols(graph, **{role: len(group) for role, group in names.items()})
        new, saved = self.stage.forward(symbolic_ops(graph), *leaves)
        program = Program(list(chain(*leaves)), [*new, *saved])
        return program.text(list(chain(*names.values())), [*self.writes, *self.saved])

    def _backward(self) -> str:
        graph = Graph()
        names = {"ds": [f"d{name}" for name in self.writes], "s_prev": self.reads, "s_next": self.writes}
        names |= {"saved": self.saved, "given": self.given}
        leaves = symbols(graph, **{role: len(group) for role, group in names.items()})
        more = (leaves[4],) if self.given else ()
        dzx, dzh, ds_prev, *rest = self.stage.stage.backward(symbolic_ops(graph), *leaves[:4], *more)
        additive = self.stage.stage.additive
        only_h = self.stage.only_h
        sides = [*self.zx, *(self.zh[:only_h] if additive else self.zh)]
        values = [*dzx, *(dzh[:only_h] if additive else dzh), *ds_prev, *(rest[0] if rest else ())]
        results = [f"d{name}" for name in (*sides, *self.reads, *self.given)]
        program = Program(list(chain(*leaves)), [graph.output(value) for value in values])
        return program.text(list(chain(*names.values())), results)


def _names(keys: Sequence[str]) -> list[str]:
    return [key.replace(" ", "") for key in keys]


def _block(title: str, text: str) -> str:
    return "\n".join([f"{title}:", *(f"    {line}" for line in text.splitlines())])
