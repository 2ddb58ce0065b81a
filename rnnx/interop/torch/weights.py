"""Torch's recurrent layers as cells, whose parameters are views of torch's weights, and the cells that operators know.

Dimensions: n hidden units, n_x inputs, k gates.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells import CELLS, Cell, Gate, Stage


def _lstm(ops: Any, zx: Any, zh: Any, s: Any) -> Any:
    (i, f, g, o), (_, c) = [x + h for x, h in zip(zx, zh, strict=True)], s
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return (ops.sigmoid(o) * ops.tanh(c), c), ()


def _gru(ops: Any, zx: Any, zh: Any, s: Any) -> Any:
    (rx, zx, nx), (rh, zh, nh), (h,) = zx, zh, s
    z, n = ops.sigmoid(zx + zh), ops.tanh(nx + ops.sigmoid(rx + rh) * nh)
    return (n + z * (h - n),), ()


def _rnn_tanh(ops: Any, zx: Any, zh: Any, s: Any) -> Any:
    return (ops.tanh(zx[0] + zh[0]),), ()


def _rnn_relu(ops: Any, zx: Any, zh: Any, s: Any) -> Any:
    return (ops.relu(zx[0] + zh[0]),), ()


# The equations by torch's mode, the gates in torch's order, the states.
_MODES = {
    "LSTM": (_lstm, "ifgo", ("a", "c")),
    "GRU": (_gru, "rzn", ("a",)),
    "RNN_TANH": (_rnn_tanh, "h", ("a",)),
    "RNN_RELU": (_rnn_relu, "h", ("a",)),
}


class Weights:
    """The parameters of a cell as an operator gets them: a sequence in the order of `names`."""

    def __init__(self, cell: Cell, names: Sequence[str]) -> None:
        self.cell, self.names = cell, tuple(names)

    def parameters(self, xp: Any, arrays: Sequence[Array]) -> dict[str, Array]:
        """Return the cell's parameters, views of the arrays where possible."""
        return dict(zip(self.names, arrays, strict=True))

    def gradients(self, xp: Any, found: Mapping[str, Array]) -> list[Array]:
        """Return the gradients of the arrays, given those of the parameters by "d" + key."""
        return [found["d" + name] for name in self.names]


class Stacked(Weights):
    """Torch's weights: weight_ih (k n, n_x), weight_hh (k n, n) and perhaps bias_ih, bias_hh (k n,)."""

    def __init__(self, mode: str, biased: bool) -> None:
        forward, letters, states = _MODES[mode]
        self._sides = ("Wx", "Wh", "bx", "bh") if biased else ("Wx", "Wh")
        self._keys = [[side + letter for letter in letters] for side in self._sides]
        gates = []
        for letter in letters:
            bias, other = (f"bx{letter}", f"bh{letter}") if biased else ("", None)
            gates.append(Gate((f"Wx{letter}", f"Wh{letter}"), bias, other))
        cell = Cell("torch_" + mode.lower(), states, (Stage(tuple(gates), states, (), forward),))
        super().__init__(cell, self._sides)

    def parameters(self, xp: Any, arrays: Sequence[Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for keys, array in zip(self._keys, arrays, strict=True):
            columns = array.shape[1] if array.ndim == 2 else 1
            found.update(zip(keys, array.reshape(len(keys), array.shape[0] // len(keys), columns), strict=True))
        return found

    def gradients(self, xp: Any, found: Mapping[str, Array]) -> list[Array]:
        given = [[found["d" + key] for key in keys] for keys in self._keys]
        biases = [xp.concat(arrays)[:, 0] for arrays in given[2:]]  # the two may be one array
        return [*(ns.joined(xp, arrays) for arrays in given[:2]), *biases]


class Projected(Weights):
    """Torch's weights of an LSTM with a projection: those of `Stacked`, then weight_hr (p, n) for p projected units."""

    def __init__(self, hidden_size: int, biased: bool) -> None:
        self._keys = [("W" + letter, "b" + letter) for letter in "ifgo"]
        biases = ("bx", "bh") if biased else ()
        super().__init__(CELLS["lstmp"].replace(cells=hidden_size), ("Wx", "Wh", *biases, "Wp"))

    def parameters(self, xp: Any, arrays: Sequence[Array]) -> dict[str, Array]:
        w_x, w_h, *biases, w_p = arrays
        n = w_x.shape[0] // len(self._keys)
        joint = xp.concat([w_h, w_x], axis=1)
        bias = biases[0] + biases[1] if biases else xp.zeros_like(w_x[:, 0])
        found = {"Wp": w_p}
        for j, (weights, key) in enumerate(self._keys):
            rows = slice(j * n, (j + 1) * n)
            found |= {weights: joint[rows, :], key: bias[rows, None]}
        return found

    def gradients(self, xp: Any, found: Mapping[str, Array]) -> list[Array]:
        joint, bias = (xp.concat([found["d" + key] for key in keys]) for keys in zip(*self._keys, strict=True))
        p = found["dWp"].shape[0]
        biases = [ns.owned_copy(xp, bias[:, 0]) for _ in self.names[2:-1]]  # they may not share memory
        return [ns.contiguous(xp, joint[:, p:]), ns.contiguous(xp, joint[:, :p]), *biases, found["dWp"]]


@lru_cache(maxsize=256)
def name_of_module(mode: str, biased: bool, hidden_size: int, projected: bool) -> str:
    """Return the name of a torch layer's weights for `registered`."""
    return f"torch/{mode}/{int(biased)}/{hidden_size if projected else 0}"


@lru_cache(maxsize=256)
def name_of_cell(cell: Cell) -> str:
    """Return the name of a cell's weights for `registered`: the same in every process if the cell is in CELLS."""
    if CELLS.get(cell.name) == cell:
        return f"cell/{cell.name}"
    with _lock:
        name = f"own/{cell.name}/{len(_own)}"
        _own[name] = cell
    return name


_own: dict[str, Cell] = {}
_lock = threading.Lock()


@lru_cache(maxsize=256)
def registered(name: str) -> Weights:
    """Return the weights of a name, which operators take instead of a cell."""
    kind, *rest = name.split("/")
    if kind == "torch":
        mode, biased, projected_from = rest[0], rest[1] == "1", int(rest[2])
        return Projected(projected_from, biased) if projected_from else Stacked(mode, biased)
    if kind == "own" and name not in _own:
        raise ValueError(
            f"cell {rest[0]!r} is not known here: programs with own cells run only in the process that made them"
        )
    cell = CELLS[rest[0]] if kind == "cell" else _own[name]
    return Weights(cell, (*cell.parameter_keys, *cell.optional_keys))
