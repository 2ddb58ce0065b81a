"""What both converters share: a layer's gates as blocks of rows (n_a units, n_x inputs, k gates); stack names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core import checks
from rnnx._core.arrays import Array
from rnnx.cells import CELLS, Cell, Gate, cell_of
from rnnx.functional import arguments

Arrays = dict[str, np.ndarray]

# The gate order in each library, by bias key.
_ORDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "torch": {"rnn": ("ba",), "lstm": ("bi", "bf", "bc", "bo"), "gru_reset_after": ("br", "bu", "bc")},
    "Keras": {
        "rnn": ("ba",),
        "lstm": ("bi", "bf", "bc", "bo"),
        "gru": ("bu", "br", "bc"),
        "gru_reset_after": ("bu", "br", "bc"),
    },
}
_NEGATED = ("bu",)  # u weights the new value, z of the peers the old one: u = 1 - z = sigmoid(-(argument of z))


@dataclass(frozen=True)
class Blocks:
    """Weights of one layer and direction, with n_a rows per gate in the peer's order."""

    w_x: np.ndarray  # (k n_a, n_x)
    w_h: np.ndarray  # (k n_a, n_a)
    b_x: np.ndarray  # (k n_a,)
    b_h: np.ndarray  # (k n_a,)

    @property
    def n_a(self) -> int:
        """Number of hidden units."""
        return int(self.w_h.shape[1])

    @property
    def n_x(self) -> int:
        """Number of inputs."""
        return int(self.w_x.shape[1])


def peer_gates(peer: str, cell: Cell | str) -> tuple[Cell, tuple[Gate, ...]]:
    """Return the cell and its gates in the peer's order."""
    cell = cell_of(cell)
    if CELLS.get(cell.name) != cell or cell.name not in _ORDERS[peer]:
        hint = "; its GRU is 'gru_reset_after'" if cell.name == "gru" else ""
        raise ValueError(f"{peer} has cells for {list(_ORDERS[peer])}; got {cell.name!r}{hint}")
    by_bias = {gate.bias: gate for gate in cell.gates}
    return cell, tuple(by_bias[key] for key in _ORDERS[peer][cell.name])


def pack(gates: Sequence[Gate], parameters: Mapping[str, np.ndarray]) -> Blocks:
    """Pack checked parameters into blocks."""
    rows = []
    for gate in gates:
        w_x, w_h = gate.split(parameters)
        b_x = parameters[gate.bias][:, 0]
        second = parameters.get(gate.recurrent_bias) if gate.recurrent_bias else None
        b_h = np.zeros_like(b_x) if second is None else second[:, 0]
        rows.append([-a if gate.bias in _NEGATED else a for a in (w_x, w_h, b_x, b_h)])
    return Blocks(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))


def unpack(cell: Cell, gates: Sequence[Gate], blocks: Blocks, gradients: bool) -> Arrays:
    """Copy blocks into parameters, in the order of the cell's keys."""
    values: Arrays = {}
    for j, gate in enumerate(gates):
        rows = slice(j * blocks.n_a, (j + 1) * blocks.n_a)
        sign = -1 if gate.bias in _NEGATED else 1
        w_x, w_h = sign * blocks.w_x[rows], sign * blocks.w_h[rows]
        b_x, b_h = sign * blocks.b_x[rows, None], sign * blocks.b_h[rows, None]
        values |= gate.join(np, w_x, w_h)
        if gate.recurrent_bias:
            values |= {gate.bias: b_x, gate.recurrent_bias: b_h}
        else:  # both biases have the gradient of their sum
            values[gate.bias] = b_x if gradients else b_x + b_h
    return {key: values[key] for key in (*cell.parameter_keys, *cell.optional_keys)}


def parts_of(cell: Cell, parameters: Mapping[str, Array], name: str) -> dict[str, Arrays]:
    """Return the checked parameters of every layer and direction by suffix ("_l0", "_l0_reverse", "_l1", ...).

    Keys without suffix, of a single cell, give one part with the suffix "".
    """
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
    suffixes = stack_suffixes("parameters", parts) if "" not in parts else [""]
    checked = {suffix: _checked(cell, suffix, parts[suffix]) for suffix in suffixes}
    dtype = np.result_type(
        *(a for part in checked.values() for a in part.values())
    )  # layers of the peers have a single dtype
    return {suffix: {key: a.astype(dtype, copy=False) for key, a in part.items()} for suffix, part in checked.items()}


def _checked(cell: Cell, suffix: str, parameters: dict[str, Array]) -> Arrays:
    """Check one layer and direction; return NumPy arrays."""
    try:
        arguments.check_parameters(cell, parameters)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (in {suffix[1:]})" if suffix else str(error)) from None
    return {key: ns.to_host(a) for key, a in parameters.items()}


def stack_suffixes(what: str, found: Mapping[str, Any]) -> list[str]:
    """Return a stack's suffixes in order, after checking that none is missing."""
    if not found:
        raise ValueError(f"`{what}` contains no weights of a recurrent layer")
    num_layers = 1 + max(int(re.findall(r"\d+", suffix)[0]) for suffix in found)
    directions = ("", "_reverse") if any(suffix.endswith("_reverse") for suffix in found) else ("",)
    suffixes = [f"_l{layer}{direction}" for layer in range(num_layers) for direction in directions]
    missing = [suffix for suffix in suffixes if suffix not in found]
    if missing:
        raise ValueError(f"`{what}` has layers and directions {sorted(found)}; missing {missing}")
    return suffixes


def check_chain(blocks: Mapping[str, Blocks], equal: bool = False) -> None:
    """Raise unless each layer fits the one below and, if `equal`, all have the same hidden size."""
    directions = 2 if any(suffix.endswith("_reverse") for suffix in blocks) else 1
    parts = list(blocks.items())
    for at, (suffix, block) in enumerate(parts):
        first = parts[at - at % directions][1]
        if (block.n_a, block.n_x) != (first.n_a, first.n_x):
            raise ValueError(f"{suffix[1:]} must have the sizes of {parts[at - 1][0][1:]}, the other direction")
        if equal and block.n_a != parts[0][1].n_a:
            raise ValueError(
                f"torch requires the same hidden size in all layers; got {[b.n_a for b in blocks.values()]}"
            )
        below = parts[at - at % directions - 1][1].n_a * directions
        if at >= directions and block.n_x != below:
            raise ValueError(f"{suffix[1:]} must have {below} inputs, the outputs of the layer below; got {block.n_x}")


def named(parts: Mapping[str, Arrays], stack: bool, name: str, gradients: bool) -> Arrays:
    """Merge the parameters of all parts into one dict, under a stack's or the cell's names."""
    if not stack and name:
        raise ValueError("`name` needs stack=True")
    if not stack and len(parts) > 1:
        raise ValueError(f"`weights` has {len(parts)} layers and directions, {list(parts)}: pass stack=True")
    middle, d = "_" + name if name else "", "d" if gradients else ""
    return {
        d + key + (middle + suffix if stack else ""): a
        for suffix, parameters in parts.items()
        for key, a in parameters.items()
    }


def peer_array(name: str, value: Any, ndim: int) -> np.ndarray:
    """Convert a peer's array to NumPy."""
    if callable(getattr(value, "detach", None)):  # a torch tensor, which may require gradients or be on a GPU
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` must be an array; {error}") from None
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"`{name}` must have dtype float32 or float64; got {array.dtype}")
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"`{name}` must have {ndim} dimension{'s' * (ndim > 1)}, none empty; got shape {array.shape}")
    return array


def head_arrays(parameters: Mapping[str, Array], keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of the weights (n_y, n_a) and the bias (n_y,) of an output layer."""
    missing = [key for key in keys if key not in parameters]
    if missing:
        raise ValueError(f"`parameters` must have the keys {list(keys)} of an output layer; missing {missing}")
    weights, bias = (parameters[key] for key in keys)
    xp, _ = ns.common_namespace(dict(zip(keys, (weights, bias), strict=True)))
    ns.floating_dtype(xp, {key: parameters[key] for key in keys}, {})
    if weights.ndim != 2:
        raise ValueError(f"`{keys[0]}` must have shape (n_y, n_a); got {tuple(weights.shape)}")
    checks.check_shape(keys[1], bias, "(n_y, 1)", (weights.shape[0], 1))
    weights, bias = ns.to_host(weights), ns.to_host(bias)[:, 0]
    dtype = np.result_type(weights, bias)
    return weights.astype(dtype), bias.astype(dtype)


def head_parameters(
    weights: np.ndarray, bias: np.ndarray, keys: tuple[str, str], names: tuple[str, str], gradients: bool
) -> Arrays:
    """Return the parameters of an output layer from weights (n_y, n_a) and bias (n_y,), as copies."""
    checks.check_shape(names[1], bias, "(n_y,)", (weights.shape[0],))
    d = "d" if gradients else ""
    return {d + keys[0]: np.array(weights, order="C"), d + keys[1]: bias[:, None].copy()}
