"""Where a backward pass writes the gradients of the parameters and initial states. Dimensions as in `fields`."""

from collections.abc import Sequence

import numpy as np

from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.cpu.descriptor.builder import Fields, PassKey
from rnnx.engines.cpu.descriptor.layout import Block, View
from rnnx.engines.cpu.runtime.buffer_pool import LINE


class GradientBlock(Block):
    """The gradients of all parameters and initial states in one allocation.

    The views are those of parameters, called `names`, "d" + key, and those of the states, (m, n). Per stage: the
    weights, one matrix (G n, n_h + n_x) if a gate has a joint one, else (G_h n, n_h) and (G_x n, n_x), where n_h are
    the units of the operand, or of a head; the biases and the recurrent biases of all gates, written in whole vectors;
    the vectors of parameters. The states come last, at offsets `of_states`. `spread`: the numbers of the views that are
    not contiguous.
    """

    def __init__(self, key: PassKey) -> None:
        n_x, self.key, self._first = key.n_x, key, [0]
        shapes: list[tuple[int, ...]] = []
        for wired in wiring(key.cell):
            n, n_h = wired.units(key.n), wired.columns(key.n)
            n_c = wired.n_gates * n
            one = [(n_c, n_h + n_x), (0, n_x)]
            shapes += one if _is_joint(wired) else [(wired.n_zh * n, n_h), (wired.n_zx * n, n_x)]
            shapes += [(n_c, 1), (n_c, 1), *[(n, 1)] * len(wired.vectors)]
            self._first.append(len(shapes))
        states = [(key.m, key.cell.size(name, key.n)) for name in key.cell.states]
        super().__init__(key.dtype, [*shapes, *states], spare=LINE)
        self.of_states = self.offsets[len(shapes) :]
        views: dict[str, View] = {}
        for wired in wiring(key.cell):
            views |= self._of_gates(wired)
        for wired in wiring(key.cell):
            of_vectors = zip(wired.stage.vectors, self.of_vectors(wired), strict=True)
            views |= {"d" + name: ((wired.units(key.n), 1), at, None) for name, at in of_vectors}
        of_states = [(shape, at, None) for shape, at in zip(states, self.of_states, strict=True)]
        self.names, self.views = tuple(views), [*views.values(), *of_states]
        self.spread = [k for k, (_, _, strides) in enumerate(self.views) if strides is not None]

    def gradients(self, memory: np.ndarray) -> tuple[dict[str, np.ndarray], Sequence[np.ndarray]]:
        """Return the gradients of the parameters by name, C-contiguous, and those of the states."""
        return self.named(self.arrays(memory))

    def named(self, arrays: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], Sequence[np.ndarray]]:
        """Return what `gradients` does, for the views of memory."""
        if self.spread:
            arrays = [np.array(a, order="C") if k in self.spread else a for k, a in enumerate(arrays)]
        return dict(zip(self.names, arrays)), arrays[len(self.names) :]  # noqa: B905 - the states have no names

    def fields(self, wired: StageWiring, block: int) -> Fields:
        """Return the fields of a stage, for a block at an address; they begin at the first gate with each side."""
        places = self._places(wired)
        fields: Fields = {f"{name}_row": row for name, (_, row) in places.items() if name in ("dw_h", "dw_x")}
        return fields | {name: block + at for name, (at, _) in places.items()}

    def of_vectors(self, wired: StageWiring) -> list[int]:
        """Return the offsets of the gradients of a stage's vectors of parameters."""
        return self._offsets(wired)[4:]

    def _offsets(self, wired: StageWiring) -> list[int]:
        return self.offsets[slice(*self._first[wired.number : wired.number + 2])]

    def _places(self, wired: StageWiring) -> dict[str, tuple[int, int]]:
        """Return the offset of the first gate with each side, and the bytes of a row."""
        w_h, w_x, b, b_h, *_ = self._offsets(wired)
        n, item, first = wired.units(self.key.n), self.dtype.itemsize, self._first[wired.number]
        row_h, row_x = (shape[1] * item for shape in self.shapes[first : first + 2])
        first_x = wired.only_h * n
        if _is_joint(wired):
            w_x, row_x = w_h + first_x * row_h + wired.columns(self.key.n) * item, row_h
        return {"dw_h": (w_h, row_h), "dw_x": (w_x, row_x), "db_h": (b_h, item), "db_x": (b + first_x * item, item)}

    def _of_gates(self, wired: StageWiring) -> dict[str, View]:
        """Return the views of the gradients of a stage's gates, by name."""
        views: dict[str, View] = {}
        key, places = self.key, self._places(wired)
        n, n_h, item = wired.units(key.n), wired.columns(key.n), key.dtype.itemsize
        for g, gate in enumerate(wired.stage.gates):
            g_x = g - wired.only_h

            def view(name: str, columns: int, g: int = g, g_x: int = g_x) -> View:
                at, row = places[name]
                strides = None if row == columns * item else (row, item)
                return (n, columns), at + (g_x if name.endswith("x") else g) * n * row, strides

            if gate.is_joint:
                views["d" + gate.weights[0]] = view("dw_h", n_h + key.n_x)
            else:
                sides = {"h": view("dw_h", n_h), "x": view("dw_x", key.n_x)}
                views |= {"d" + name: sides[side] for side, name in zip(gate.sides, gate.weights, strict=True)}
            if gate.bias:
                views["d" + gate.bias] = view("db_x", 1)
            if gate.recurrent_bias in key.keys:
                views[f"d{gate.recurrent_bias}"] = view("db_x" if wired.stage.additive else "db_h", 1)
        return views


def _is_joint(wired: StageWiring) -> bool:
    return any(gate.is_joint for gate in wired.stage.gates)
