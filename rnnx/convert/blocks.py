"""What both converters share: a layer's gates as blocks of rows (n_a units, n_x inputs, k gates); stack names."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.arrays import Array
from rnnx._core.words import shown
from rnnx.cells import CELLS, Cell, Gate, cell_of
from rnnx.functional.shapes import check_parameters

Arrays = dict[str, np.ndarray]

_NEGATED = ("bu",)  # u weights the new value, the peers' z the old one: u = 1 - z = sigmoid(-(argument of z))


class Blocks(NamedTuple):
    """Weights of one layer and direction, with n_a rows per gate in the peer's order."""

    w_x: np.ndarray  # (k n_a, n_x)
    w_h: np.ndarray  # (k n_a, n_a)
    b_x: np.ndarray  # (k n_a,)
    b_h: np.ndarray  # (k n_a,)

    @classmethod
    def of(cls, w_x: np.ndarray, w_h: np.ndarray, *biases: np.ndarray) -> "Blocks":
        """Replace missing biases by zeros."""
        zeros = np.zeros_like(w_x[:, 0])
        return cls(w_x, w_h, *(*biases, zeros, zeros)[:2])

    def on_indices(self, table: np.ndarray) -> "Blocks":
        """Fold an embedding (vocab_size, n_x) before the layer into its input weights: a column for each index."""
        (table,), n_x = peer_arrays({"embedding": ("(vocab_size, n_x)", table)}), self.w_x.shape[1]
        if table.shape[1] != n_x:
            raise ValueError(f"`embedding` must have shape (vocab_size, n_x) with n_x = {n_x}; got {table.shape}")
        w_x = np.asarray(self.w_x, np.float64) @ np.asarray(table, np.float64).T
        return self._replace(w_x=w_x.astype(np.result_type(self.w_x, table)))


@dataclass(frozen=True)
class Peer:
    """A library's cells and stacks. Blocks are keyed by suffix: "_l0", "_l0_reverse", "_l1", ..."""

    name: str
    orders: dict[str, tuple[str, ...]]  # per cell, the bias keys of its gates in the library's order
    same_size: bool = False  # whether all layers of a stack have the same hidden size

    def cell(self, cell: Cell | str) -> Cell:
        """Return the cell, after checking that the library has it."""
        cell = cell_of(cell)
        if CELLS.get(cell.name) != cell or cell.name not in self.orders:
            hint = f"; the GRU of {self.name} is 'gru_reset_after'" if cell.name == "gru" else ""
            raise ValueError(f"`cell` must be one of {list(self.orders)} for {self.name}; got {cell.name!r}{hint}")
        return cell

    def to_blocks(self, cell: Cell, parameters: Mapping[str, Array], name: str) -> dict[str, Blocks]:
        """Pack the parameters of a stack, or of a single cell under the suffix ""."""
        parts = _parts_of(cell, parameters, name)
        blocks = {suffix: _pack(self._gates(cell), part) for suffix, part in parts.items()}
        self._check_sizes(blocks)
        return blocks

    def to_parameters(
        self, cell: Cell, found: Mapping[str, Blocks], stack: bool, name: str, gradients: bool, embedding: Any = None
    ) -> Arrays:
        """Unpack blocks into parameters under the names of a stack or a cell."""
        blocks = {suffix: found[suffix] for suffix in _stack_suffixes("weights", found)}
        self._check_sizes(blocks)
        if not stack and name:
            raise ValueError("`name` requires stack=True")
        if not stack and len(blocks) > 1:
            raise ValueError(f"`weights` contains several layers or directions, {list(blocks)}: pass stack=True")
        if embedding is not None and gradients:
            raise ValueError("`embedding` must be None for gradients: those of the folded weights are not among them")
        if embedding is not None:
            blocks |= {key: part.on_indices(embedding) for key, part in blocks.items() if key in ("_l0", "_l0_reverse")}
        middle, d = "_" + name if name else "", "d" if gradients else ""
        return {
            d + key + (middle + suffix if stack else ""): a
            for suffix, part in blocks.items()
            for key, a in _unpack(cell, self._gates(cell), part, gradients).items()
        }

    def _gates(self, cell: Cell) -> list[Gate]:
        by_bias = {gate.bias: gate for gate in cell.gates}
        return [by_bias[key] for key in self.orders[cell.name]]

    def _check_sizes(self, blocks: Mapping[str, Blocks]) -> None:
        """Raise unless each layer fits the one below, and both directions have the same sizes."""
        directions = 2 if any(suffix.endswith("_reverse") for suffix in blocks) else 1
        parts = [(suffix[1:], block.w_h.shape[1], block.w_x.shape[1]) for suffix, block in blocks.items()]
        for at, (suffix, n_a, n_x) in enumerate(parts):
            forward, *sizes = parts[at - at % directions]
            if [n_a, n_x] != sizes:
                raise ValueError(f"{suffix} must have the same [n_a, n_x] as {forward}, {sizes}; got {[n_a, n_x]}")
            if self.same_size and n_a != parts[0][1]:
                raise ValueError(f"{self.name} requires the same n_a in all layers; got {[p[1] for p in parts]}")
            outputs = directions * parts[at - directions][1]
            if at >= directions and n_x != outputs:
                raise ValueError(f"{suffix} must have n_x = {outputs}, the output size of the layer below; got {n_x}")


def _pack(gates: Sequence[Gate], parameters: Mapping[str, np.ndarray]) -> Blocks:
    """Pack checked parameters into blocks."""
    rows = []
    for gate in gates:
        b_x = parameters[gate.bias]
        b_h = parameters.get(gate.recurrent_bias or "", np.zeros_like(b_x))
        sign = -1 if gate.bias in _NEGATED else 1
        rows.append([sign * a for a in (*gate.split(parameters, b_x.shape[0]), b_x[:, 0], b_h[:, 0])])
    return Blocks(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def _unpack(cell: Cell, gates: Sequence[Gate], blocks: Blocks, gradients: bool) -> Arrays:
    """Copy blocks into parameters, in the order of the cell's keys."""
    values: Arrays = {}
    n_a = blocks.w_h.shape[1]
    for j, gate in enumerate(gates):
        sign = -1 if gate.bias in _NEGATED else 1
        w_x, w_h, b_x, b_h = (sign * a[j * n_a : (j + 1) * n_a] for a in blocks)
        values |= gate.join(np, w_x, w_h)
        if gate.recurrent_bias:
            values |= {gate.bias: b_x[:, None], gate.recurrent_bias: b_h[:, None]}
        else:  # both biases have the gradient of their sum
            values[gate.bias] = (b_x if gradients else b_x + b_h)[:, None]
    return {key: values[key] for key in (*cell.parameter_keys, *cell.optional_keys)}


def _parts_of(cell: Cell, parameters: Mapping[str, Array], name: str) -> dict[str, Arrays]:
    """Return the checked parameters of every layer and direction by suffix; "" for the keys of a single cell."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    known = {*cell.parameter_keys, *cell.optional_keys}
    parts: dict[str, dict[str, Array]] = {}
    if not name and known & set(parameters):
        parts[""] = {key: a for key, a in parameters.items() if key not in (*cell.head, "Wy")}
    else:
        pattern = re.compile(rf"([A-Za-z]+){'_' + re.escape(name) if name else ''}(_l\d+(?:_reverse)?)")
        for key, a in parameters.items():
            if match := pattern.fullmatch(key):
                parts.setdefault(match[2], {})[match[1]] = a
    suffixes = _stack_suffixes("parameters", parts) if "" not in parts else [""]
    checked = {suffix: _checked(cell, suffix, parts[suffix]) for suffix in suffixes}
    dtype = np.result_type(*(a for part in checked.values() for a in part.values()))  # a peer's layer has one dtype
    return {suffix: {key: a.astype(dtype, copy=False) for key, a in part.items()} for suffix, part in checked.items()}


def _checked(cell: Cell, suffix: str, parameters: dict[str, Array]) -> Arrays:
    """Check one layer and direction; return NumPy arrays."""
    try:
        check_parameters(cell, parameters)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (in {suffix[1:]})" if suffix else str(error)) from None
    return {key: ns.to_host(a) for key, a in parameters.items()}


def _stack_suffixes(what: str, found: Mapping[str, Any]) -> list[str]:
    """Return a stack's suffixes in order, after checking that none is missing."""
    if not found:
        raise ValueError(f"`{what}` must contain the weights of a recurrent layer; got none")
    num_layers = 1 + max(int(re.findall(r"\d+", suffix)[0]) for suffix in found)
    directions = ("", "_reverse") if any(suffix.endswith("_reverse") for suffix in found) else ("",)
    suffixes = [f"_l{layer}{direction}" for layer in range(num_layers) for direction in directions]
    missing = [suffix for suffix in suffixes if suffix not in found]
    if missing:
        raise ValueError(f"`{what}` must contain every layer and direction; got {sorted(found)}; missing {missing}")
    return suffixes


def peer_arrays(named: Mapping[str, tuple[str, Any]], cell: Cell | None = None) -> list[np.ndarray]:
    """Convert a peer's arrays to NumPy and check their shapes, given in symbols, for instance "(k n_a, n_x)".

    The cell has k gates; the size of every other symbol comes from an array in which it stands alone.
    """
    arrays: Arrays = {}
    sizes: dict[str, int] = {}
    for name, (shape, value) in named.items():
        arrays[name] = array = _to_numpy(name, value)
        if array.ndim != len(_dims(shape)) or 0 in array.shape:
            raise ValueError(f"`{name}` must be a non-empty array of shape {shape}; got shape {array.shape}")
        sizes |= zip(_dims(shape), array.shape, strict=True)
    sizes |= {"2": 2, "k": len(cell.gates) if cell else 0}
    for name, (shape, _) in named.items():
        expected = tuple(math.prod(sizes[symbol] for symbol in dim.split()) for dim in _dims(shape))
        if arrays[name].shape != expected:
            of = f" for cell {cell.name!r} (k = {sizes['k']})" if cell else ""
            raise ValueError(f"`{name}` must have shape {shape} = {expected}{of}; got {arrays[name].shape}")
    return list(arrays.values())


def check_texts(**texts: str) -> None:
    """Raise unless the arguments are str."""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"`{name}` must be a str; got {type(text).__name__}")


def check_keys(keys: Any) -> None:
    """Raise unless `keys` names the weights and the bias of an output layer."""
    if not isinstance(keys, tuple | list) or len(keys) != 2 or not all(isinstance(key, str) for key in keys):
        raise TypeError(f"`keys` must be two str, of the weights and the bias; got {shown(keys)}")


def _dims(shape: str) -> list[str]:
    return shape.strip("(,)").split(", ")


def _to_numpy(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"`{name}` must not be a masked array")
    if callable(getattr(value, "detach", None)):  # a torch tensor, which may require gradients or be on a GPU
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"`{name}` must be an array: {reason}") from None
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"`{name}` must have dtype float32 or float64; got {array.dtype}")
    return array


def head_arrays(parameters: Mapping[str, Array], keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of the weights (n_y, n_a) and the bias (n_y,) of an output layer."""
    check_keys(keys)
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    missing = [key for key in keys if key not in parameters]
    if missing:
        raise ValueError(f"`parameters` must have the keys {list(keys)} of an output layer; missing {missing}")
    head = {key: parameters[key] for key in keys}
    xp, _ = ns.common_namespace(head)
    ns.floating_dtype(xp, head, {})
    weights, bias = head.values()
    if weights.ndim != 2:
        raise ValueError(f"`{keys[0]}` must have shape (n_y, n_a); got {tuple(weights.shape)}")
    checks.check_shape(keys[1], bias, "(n_y, 1)", (weights.shape[0], 1))
    weights, bias = ns.to_host(weights), ns.to_host(bias)[:, 0]
    dtype = np.result_type(weights, bias)
    return weights.astype(dtype), bias.astype(dtype)


def head_parameters(keys: tuple[str, str], gradients: bool, weights: np.ndarray, *biases: np.ndarray) -> Arrays:
    """Return the parameters of an output layer, as copies; a missing bias becomes zeros."""
    check_keys(keys)
    bias = biases[0] if biases else np.zeros_like(weights[:, 0])
    d = "d" if checks.flag("gradients", gradients) else ""
    return {d + keys[0]: np.array(weights, order="C"), d + keys[1]: bias[:, None].copy()}
