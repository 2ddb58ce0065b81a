"""Weight layouts of Keras's SimpleRNN, LSTM, GRU, Bidirectional and Dense: lists of arrays as from get_weights."""

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
    """Convert parameters to the weights of SimpleRNN, LSTM or GRU, optionally in Bidirectional.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm", "gru" (Keras's GRU(reset_after=False)) or "gru_reset_after" (Keras's default).
    parameters : dict of str to array
        Parameters of a cell ("Wf", ...) or a stack ("Wf_l0", "Wf_l0_reverse", "Wf_l1", ...). Other keys are ignored;
        for an output layer see `dense_to_keras`.
    name : str
        Name of the stack in the keys of `parameters`.

    Returns
    -------
    list of numpy.ndarray, or list of such lists
        For a cell, the argument of ``layer.set_weights``: kernel (n_x, k n_a), recurrent kernel (n_a, k n_a) and bias
        (k n_a,), or (2, k n_a) for "gru_reset_after". For a stack, one such list per layer; a bidirectional layer has
        the arrays of both directions in one list, forward first.

    Raises
    ------
    ValueError
        If the cell is not built in, or a key or a shape is wrong.
    TypeError
        If a parameter is not a float32 or float64 array.
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
    """Convert the weights of SimpleRNN, LSTM or GRU, optionally in Bidirectional, to parameters.

    Parameters
    ----------
    cell : Cell or str
        As for `to_keras`.
    weights : Keras layer, list of array, or a list of either
        A layer or the result of its get_weights(); for a stack, a list with one of these per layer. A missing bias
        (use_bias=False) becomes zeros.
    stack : bool
        Whether to return the names of a stack, "Wf_l0", "Wf_l0_reverse", ... Otherwise the names are "Wf", ..., which
        requires a single layer and direction.
    name : str
        Name of the stack in the returned keys.
    gradients : bool
        Whether `weights` are gradients with respect to Keras's weights. The result is then the gradients with respect
        to rnnx's parameters, under "d" + key.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies in the dtype of `weights`.

    Raises
    ------
    ValueError
        If a shape is wrong, the weights belong to another cell, or the layer has other activations, runs backwards
        (outside Bidirectional), or has a merge_mode other than "concat".
    TypeError
        If `weights` is not a layer or a list of float32 or float64 arrays.
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
    """Convert the parameters of an output layer to the weights of Dense.

    Parameters
    ----------
    parameters : dict of str to array
        Contains the weights (n_y, n_a) and the bias (n_y, 1), among others.
    keys : (str, str)
        The keys of weights and bias.

    Returns
    -------
    list of numpy.ndarray
        Kernel (n_a, n_y) and bias (n_y,).
    """
    weights, bias = blocks.head_arrays(parameters, keys)
    return [np.ascontiguousarray(weights.T), bias]


def dense_from_keras(weights: Any, *, keys: tuple[str, str] = ("Wy", "by"), gradients: bool = False) -> Arrays:
    """Convert the weights of Dense to the parameters of an output layer.

    Parameters
    ----------
    weights : Keras layer, or list of array
        The activation of a layer must be linear or softmax: rnnx's output layer computes the logits.
    keys : (str, str)
        The keys of the result.
    gradients : bool
        As in `from_keras`.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies of the weights (n_y, n_a) and the bias (n_y, 1).
    """
    config = _config(weights, "layer")  # of the layer inside TimeDistributed
    if config.get("activation", "linear") not in ("linear", "softmax"):
        raise ValueError(f"the layer's activation must be 'linear' or 'softmax'; got {config['activation']!r}")
    if "input_dim" in config:
        raise ValueError("`weights` must belong to a dense layer; got an embedding")
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
    """Return the arrays of one layer in the order of get_weights."""
    if hasattr(layer, "layers"):
        raise ValueError("`weights` must be recurrent layers, not a model: pass a list from model.layers")
    arrays = layer.get_weights() if _is_layer(layer) else layer
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"`weights` must be a Keras layer or a list of arrays; got {type(layer).__name__}")
    return arrays


def _check_config(cell: Cell, layer: Any) -> None:
    """Check the layer's settings, which its arrays do not show."""
    merge = getattr(layer, "merge_mode", "concat")
    if merge != "concat":
        raise ValueError(f"merge_mode of a bidirectional layer must be 'concat'; got {merge!r}")
    if hasattr(layer, "forward_layer"):
        _check_half(cell, layer.forward_layer, backwards=False)
        _check_half(cell, layer.backward_layer, backwards=True)
    else:
        _check_half(cell, layer, backwards=False)


def _check_half(cell: Cell, layer: Any, backwards: bool) -> None:
    """Check that one direction computes the same as rnnx's cell, in the expected direction."""
    config = _config(layer, "cell")
    if "cells" in config:
        raise ValueError("the layer has a list of cells; use one layer per cell")
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
    """Merge the configs of a layer and of the layer or cell that it wraps; empty for a list of arrays."""
    config: dict[str, Any] = {}
    for part in (layer, getattr(layer, inner, None)):
        get_config = getattr(part, "get_config", None)
        if callable(get_config):
            config |= get_config()
    return config


def _read(cell: Cell, k: int, arrays: Sequence[Any]) -> Blocks:
    """Check the shapes of one layer and direction."""
    if len(arrays) not in (2, 3):
        raise ValueError(
            "`weights` of a layer must be [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias], twice if "
            f"bidirectional; got {len(arrays)} arrays"
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
