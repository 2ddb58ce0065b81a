"""The layout of Keras's SimpleRNN, LSTM, GRU, Bidirectional and Dense: lists of arrays in the order of get_weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core import checks
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.convert import blocks
from rnnx.convert.blocks import Arrays, Blocks

_ACTIVATIONS = {"activation": "tanh", "recurrent_activation": "sigmoid"}


def to_keras(cell: Cell | str, parameters: Mapping[str, Array], *, name: str = "") -> list[Any]:
    """Weights for SimpleRNN, LSTM or GRU, and for Bidirectional ones.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm", "gru" (for GRU(reset_after=False)) or "gru_reset_after" (for Keras's default).
    parameters : dict of str to array
        Of one cell ("Wf", ...) or of a stack ("Wf_l0", "Wf_l0_reverse", "Wf_l1", ...). Other layers in it are left
        out; for an output layer see `dense_to_keras`.
    name : str
        Name of the stack, if it has one.

    Returns
    -------
    list of numpy.ndarray, or list of such lists
        Of one cell: kernel (n_x, k n_a), recurrent kernel (n_a, k n_a), bias (k n_a,), or (2, k n_a) for
        "gru_reset_after", to give to ``layer.set_weights``. Of a stack: one such list per layer; both directions'
        arrays, forward first, in the list of a bidirectional layer.

    Raises
    ------
    ValueError
        For a cell of one's own, a missing or unknown key, or a wrong shape.
    TypeError
        For something that is not a float32 or float64 array.
    """
    cell, gates = blocks.peer_gates("Keras", cell)
    parts = {s: blocks.pack(gates, p) for s, p in blocks.parts_of(cell, parameters, name).items()}
    blocks.check_chain(parts)
    layers: dict[str, list[np.ndarray]] = {}
    for suffix, b in parts.items():
        bias = np.stack([b.b_x, b.b_h]) if cell.optional_keys else b.b_x
        arrays = [np.ascontiguousarray(b.w_x.T), np.ascontiguousarray(b.w_h.T), bias]
        layers.setdefault(suffix.removesuffix("_reverse"), []).extend(arrays)
    return layers[""] if "" in layers else list(layers.values())


def from_keras(
    cell: Cell | str, weights: Any, *, stack: bool = False, name: str = "", gradients: bool = False
) -> Arrays:
    """Parameters from the weights of SimpleRNN, LSTM or GRU, and of Bidirectional ones.

    Parameters
    ----------
    cell : Cell or str
        As in `to_keras`.
    weights : Keras layer, list of array, or a list of either
        A layer, or what its get_weights() returned; a list with one of these per layer is a stack. Without a bias
        (use_bias=False): it becomes zeros.
    stack : bool
        True: the names of a stack, "Wf_l0", "Wf_l0_reverse", ...; False: the cell's own, "Wf", which wants one layer
        of one direction.
    name : str
        Name of the stack, if it shall have one.
    gradients : bool
        True if `weights` holds gradients with respect to Keras's weights: the result then holds those with respect
        to ours, under "d" + key.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies, in the dtype of `weights`.

    Raises
    ------
    ValueError
        For wrong shapes, the weights of another cell, a layer with other activations, one that reads backwards
        (outside of a Bidirectional), or a merge_mode other than "concat".
    TypeError
        For something that is not a layer or a list of float32 or float64 arrays.
    """
    cell, gates = blocks.peer_gates("Keras", cell)
    layers = list(weights) if _is_stack(weights) else [weights]
    parts: dict[str, Blocks] = {}
    for index, layer in enumerate(layers):
        _check_config(cell, layer)
        arrays = _arrays(layer)
        half = len(arrays) // 2 if len(arrays) in (4, 6) else len(arrays)
        for direction, at in (("", 0), ("_reverse", half))[: len(arrays) // half if half else 1]:
            parts[f"_l{index}{direction}"] = _read(cell, len(gates), arrays[at : at + half])
    blocks.stack_suffixes("weights", parts)
    blocks.check_chain(parts)
    unpacked = {suffix: blocks.unpack(cell, gates, part, gradients) for suffix, part in parts.items()}
    return blocks.named(unpacked, stack, name, gradients)


def dense_to_keras(parameters: Mapping[str, Array], *, keys: tuple[str, str] = ("Wy", "by")) -> list[np.ndarray]:
    """Weights for Dense.

    Parameters
    ----------
    parameters : dict of str to array
        Holds, beside others, the weights (n_y, n_a) and the bias (n_y, 1).
    keys : (str, str)
        Their keys.

    Returns
    -------
    list of numpy.ndarray
        kernel (n_a, n_y) and bias (n_y,).

    Raises
    ------
    ValueError, TypeError
        As `to_keras`.
    """
    weights, bias = blocks.head_arrays(parameters, keys)
    return [np.ascontiguousarray(weights.T), bias]


def dense_from_keras(weights: Any, *, keys: tuple[str, str] = ("Wy", "by"), gradients: bool = False) -> Arrays:
    """Parameters of an output layer from those of Dense.

    Parameters
    ----------
    weights : Keras layer, or list of array
        A layer's activation must be linear or softmax: our output layer gives the logits.
    keys : (str, str)
        Keys of the result.
    gradients : bool
        As in `from_keras`.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        The weights (n_y, n_a) and the bias (n_y, 1); copies.

    Raises
    ------
    ValueError, TypeError
        As `from_keras`.
    """
    config = _config(weights, "layer")  # that of a TimeDistributed
    if config.get("activation", "linear") not in ("linear", "softmax"):
        raise ValueError(f"the layer's activation must be 'linear' or 'softmax'; got {config['activation']!r}")
    if "input_dim" in config:
        raise ValueError("`weights` must be of a dense layer; got an embedding")
    arrays = _arrays(weights)
    if len(arrays) not in (1, 2):
        raise ValueError(f"`weights` of a dense layer must be [kernel, bias] or [kernel]; got {len(arrays)} arrays")
    kernel = blocks.peer_array("kernel", arrays[0], 2)
    bias = blocks.peer_array("bias", arrays[1], 1) if len(arrays) == 2 else np.zeros_like(kernel[0])
    return blocks.head_parameters(kernel.T, bias, keys, ("kernel", "bias"), gradients)


def _is_layer(weights: Any) -> bool:
    return callable(getattr(weights, "get_weights", None))


def _is_stack(weights: Any) -> bool:
    first = weights[0] if isinstance(weights, list | tuple) and weights else None
    return _is_layer(first) or isinstance(first, list | tuple)


def _arrays(layer: Any) -> Sequence[Any]:
    """The arrays of one layer, in the order of get_weights."""
    if hasattr(layer, "layers"):
        raise ValueError("`weights` must be the recurrent layers of a model, not the model: a list from model.layers")
    arrays = layer.get_weights() if _is_layer(layer) else layer
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"`weights` must be a Keras layer or a list of arrays; got {type(layer).__name__}")
    return arrays


def _check_config(cell: Cell, layer: Any) -> None:
    """What only a layer tells: its arrays are the same."""
    merge = getattr(layer, "merge_mode", "concat")
    if merge != "concat":
        raise ValueError(f"merge_mode of a bidirectional layer must be 'concat'; got {merge!r}")
    if hasattr(layer, "forward_layer"):
        _check_half(cell, layer.forward_layer, backwards=False)
        _check_half(cell, layer.backward_layer, backwards=True)
    else:
        _check_half(cell, layer, backwards=False)


def _check_half(cell: Cell, layer: Any, backwards: bool) -> None:
    """One direction: its cell computes what ours does, and it reads in this direction."""
    config = _config(layer, "cell")
    if "cells" in config:
        raise ValueError("the layer has a list of cells; give a layer of its own for each")
    for key, wanted in _ACTIVATIONS.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(f"the layer's {key} must be {wanted!r}; got {config[key]!r}")
    if config.get("go_backwards", backwards) != backwards:
        half = "the backward half of a bidirectional layer" if backwards else "the layer"
        raise ValueError(f"go_backwards of {half} must be {backwards}; got {config['go_backwards']}")
    resets_after = config.get("reset_after")
    if cell.name.startswith("gru") and resets_after is not None and resets_after != bool(cell.optional_keys):
        right = "gru_reset_after" if resets_after else "gru"
        raise ValueError(f"the layer has reset_after={resets_after}, which is cell {right!r}; got {cell.name!r}")


def _config(layer: Any, inner: str) -> dict[str, Any]:
    """What a layer tells of itself, and of the layer or cell that it wraps; nothing of a list of arrays."""
    config: dict[str, Any] = {}
    for part in (layer, getattr(layer, inner, None)):
        get_config = getattr(part, "get_config", None)
        if callable(get_config):
            config |= get_config()
    return config


def _read(cell: Cell, k: int, arrays: Sequence[Any]) -> Blocks:
    """One layer and direction, its shapes checked."""
    if len(arrays) not in (2, 3):
        raise ValueError(
            "`weights` of a layer must be [kernel, recurrent_kernel, bias], or these twice for a bidirectional layer "
            f"(without bias: two arrays, or four); got {len(arrays)} arrays"
        )
    kernel, recurrent = (
        blocks.peer_array(key, a, 2) for key, a in zip(("kernel", "recurrent_kernel"), arrays[:2], strict=True)
    )
    n_a = recurrent.shape[0]
    symbol, of = f"{k} n_a" if k > 1 else "n_a", f", for cell {cell.name!r},"
    checks.check_shape("recurrent_kernel", recurrent, f"(n_a, {symbol}){of}", (n_a, k * n_a))
    checks.check_shape("kernel", kernel, f"(n_x, {symbol}){of}", (kernel.shape[0], k * n_a))
    b_x = b_h = np.zeros(k * n_a, kernel.dtype)
    if len(arrays) == 3:
        two = bool(cell.optional_keys)
        symbols = f"(2, {symbol})" if two else f"({symbol},)"
        bias = np.asarray(arrays[2])
        checks.check_shape("bias", bias, f"{symbols}{of}", (2, k * n_a) if two else (k * n_a,))
        bias = blocks.peer_array("bias", bias, bias.ndim)
        b_x, b_h = bias if two else (bias, b_h)
    return Blocks(kernel.T, recurrent.T, b_x, b_h)
