"""Weight layouts of Keras's SimpleRNN, LSTM, GRU, Bidirectional and Dense: lists of arrays as from get_weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import flag
from rnnx.cells import Cell
from rnnx.convert import blocks
from rnnx.convert.blocks import Arrays, Blocks

_LAYER = {"kernel": "(n_x, k n_a)", "recurrent_kernel": "(n_a, k n_a)", "bias": "(k n_a,)"}
_DENSE = {"kernel": "(n_a, n_y)", "bias": "(n_y,)"}
_LSTM, _GRU = ("bi", "bf", "bc", "bo"), ("bu", "br", "bc")
_PADDING = "rnnx has `lengths`, which mean padding at the end: move it there with `rnnx.data.move_padding_to_end`"
_OTHER_LAYERS = {
    "Masking": f"leave it out; {_PADDING}",
    "Embedding": "pass it as `embedding`",
    "Dense": "convert it with `dense_from_keras`",
    "TimeDistributed": "convert it with `dense_from_keras`",
    "Dropout": "leave it out",
    "InputLayer": "leave it out",
}
_KERAS = blocks.Peer("Keras", {"rnn": ("ba",), "lstm": _LSTM, "gru": _GRU, "gru_reset_after": _GRU})


def to_keras(cell: Cell | str, parameters: Mapping[str, Array], *, name: str = "") -> list[Any]:
    """Convert parameters to the weights of SimpleRNN, LSTM or GRU, optionally in Bidirectional.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm", "gru" (Keras's GRU(reset_after=False)) or "gru_reset_after" (Keras's default).
    parameters, name
        As for `to_torch`.

    Returns
    -------
    list of numpy.ndarray, or list of such lists
        For a cell, the argument of ``layer.set_weights``: kernel (n_x, k n_a), recurrent kernel (n_a, k n_a) and bias
        (k n_a,), or (2, k n_a) for "gru_reset_after". For a stack, one such list per layer; a bidirectional layer has
        the arrays of both directions in one list, forward first.

    Raises
    ------
    ValueError, TypeError
        As for `to_torch`, but Keras has every built-in cell, and the layers may have any hidden sizes.

    See Also
    --------
    from_keras, dense_to_keras

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru_reset_after", n_x=3, n_a=5, rng=0)
    >>> weights = rnnx.convert.to_keras("gru_reset_after", parameters)  # for set_weights of keras.layers.GRU(5)
    >>> [array.shape for array in weights]
    [(3, 15), (5, 15), (2, 15)]
    """
    cell = _KERAS.cell(cell)
    blocks.check_texts(name=name)
    layers: dict[str, list[np.ndarray]] = {}
    for suffix, b in _KERAS.to_blocks(cell, parameters, name).items():
        bias = np.stack([b.b_x, b.b_h]) if cell.optional_keys else b.b_x
        arrays = [np.ascontiguousarray(b.w_x.T), np.ascontiguousarray(b.w_h.T), bias]
        layers.setdefault(suffix.removesuffix("_reverse"), []).extend(arrays)
    return layers[""] if "" in layers else list(layers.values())


def from_keras(
    cell: Cell | str,
    weights: Any,
    *,
    stack: bool = False,
    name: str = "",
    gradients: bool = False,
    embedding: Any = None,
) -> Arrays:
    """Convert the weights of SimpleRNN, LSTM or GRU, optionally in Bidirectional, to parameters.

    Parameters
    ----------
    cell : Cell or str
        As for `to_keras`.
    weights : Keras layer, list of array, or a list of either
        A layer or the result of its get_weights(); for a stack, a list with one of these per layer. A missing bias
        (use_bias=False) becomes zeros.
    stack, name, gradients
        As for `from_torch`.
    embedding : Embedding layer, list of array, or array, shape (vocab_size, n_x), optional
        As for `from_torch`. With mask_zero=True, pass the numbers of steps before the padding as `lengths`.

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

    See Also
    --------
    to_keras, dense_from_keras, rnnx.data.move_padding_to_end

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> kernel, recurrent, bias = np.ones((3, 20)), np.ones((5, 20)), np.zeros(20)  # of keras.layers.LSTM(5)
    >>> parameters = rnnx.convert.from_keras("lstm", [kernel, recurrent, bias])  # or the layer itself
    >>> parameters["Wf"].shape, parameters["bf"].shape
    ((5, 8), (5, 1))
    """
    cell, stack, gradients = _KERAS.cell(cell), flag("stack", stack), flag("gradients", gradients)
    blocks.check_texts(name=name)
    first = weights[0] if isinstance(weights, list | tuple) and weights else None
    layers = list(weights) if _is_layer(first) or isinstance(first, list | tuple) else [weights]
    parts: dict[str, Blocks] = {}
    for index, layer in enumerate(layers):
        _check_config(cell, layer)
        arrays = _arrays(layer)
        middle = len(arrays) // 2
        halves = (arrays[:middle], arrays[middle:]) if len(arrays) in (4, 6) else (arrays,)
        for direction, half in zip(("", "_reverse"), halves, strict=False):
            parts[f"_l{index}{direction}"] = _read(cell, half)
    return _KERAS.to_parameters(cell, parts, stack, name, gradients, _table(embedding))


def dense_to_keras(parameters: Mapping[str, Array], *, keys: tuple[str, str] = ("Wy", "by")) -> list[np.ndarray]:
    """Convert the parameters of an output layer to the weights of Dense.

    Parameters
    ----------
    parameters, keys
        As for `dense_to_torch`.

    Returns
    -------
    list of numpy.ndarray
        Kernel (n_a, n_y) and bias (n_y,).

    See Also
    --------
    dense_from_keras, to_keras

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, n_y=2, rng=0)
    >>> kernel, bias = rnnx.convert.dense_to_keras(parameters, keys=("Wya", "by"))
    >>> kernel.shape, bias.shape
    ((5, 2), (2,))
    """
    weights, bias = blocks.head_arrays(parameters, keys)
    return [np.ascontiguousarray(weights.T), bias]


def dense_from_keras(weights: Any, *, keys: tuple[str, str] = ("Wy", "by"), gradients: bool = False) -> Arrays:
    """Convert the weights of Dense to the parameters of an output layer.

    Parameters
    ----------
    weights : Keras layer, or list of array
        The activation of a layer must be linear or softmax: rnnx's output layer computes the logits.
    keys, gradients
        As for `dense_from_torch`.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies of the weights (n_y, n_a) and the bias (n_y, 1).

    See Also
    --------
    dense_to_keras, from_keras

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.convert import dense_from_keras
    >>> kernel, bias = np.ones((5, 2)), np.zeros(2)  # of keras.layers.Dense(2)
    >>> {key: array.shape for key, array in dense_from_keras([kernel, bias], keys=("W", "b")).items()}
    {'W': (2, 5), 'b': (2, 1)}
    """
    config = _config(weights, "layer")  # of the layer inside TimeDistributed
    if config.get("activation", "linear") not in ("linear", "softmax"):
        raise ValueError(f"activation of the layer must be 'linear' or 'softmax'; got {config['activation']!r}")
    if "input_dim" in config:
        raise ValueError("`weights` must be a dense layer; got an embedding")
    arrays = _arrays(weights)
    if len(arrays) not in (1, 2):
        raise ValueError(f"`weights` of a dense layer must be [kernel, bias] or [kernel]; got {len(arrays)} arrays")
    kernel, *bias = blocks.peer_arrays({key: (_DENSE[key], a) for key, a in zip(_DENSE, arrays, strict=False)})
    return blocks.head_parameters(keys, gradients, kernel.T, *bias)


def _table(embedding: Any) -> Any:
    """Return the rows of an embedding."""
    if _is_layer(embedding) and "input_dim" not in _config(embedding, "layer"):
        raise ValueError(f"`embedding` must be an Embedding layer; got {type(embedding).__name__}")
    arrays = embedding.get_weights() if _is_layer(embedding) else embedding
    return arrays[0] if isinstance(arrays, list | tuple) and len(arrays) == 1 else arrays


def _is_layer(weights: Any) -> bool:
    return callable(getattr(weights, "get_weights", None))


def _arrays(layer: Any) -> Sequence[Any]:
    """Return the arrays of one layer in the order of get_weights."""
    if hasattr(layer, "layers"):
        raise ValueError(f"`weights` must be a layer or a list of layers; got a model: {_layers_to_pass(layer.layers)}")
    arrays = layer.get_weights() if _is_layer(layer) else layer
    if not isinstance(arrays, list | tuple):
        raise TypeError(f"`weights` must be a Keras layer or a list of arrays; got {type(layer).__name__}")
    return arrays


def _layers_to_pass(layers: Sequence[Any]) -> str:
    """Return the end of the error message for a model: which of its layers to pass."""
    is_recurrent = [hasattr(layer, "cell") or hasattr(layer, "forward_layer") for layer in layers]
    recurrent = [f"model.layers[{i}]" for i, found in enumerate(is_recurrent) if found] or ["layers from model.layers"]
    masks = any(type(layer).__name__ == "Masking" or getattr(layer, "mask_zero", False) for layer in layers)
    which = f"[{', '.join(recurrent)}], stack=True" if len(recurrent) > 1 else recurrent[0]
    return f"pass {which}" + (f". It masks steps; {_PADDING}" if masks else "")


def _check_config(cell: Cell, layer: Any) -> None:
    """Check the kind of the layer and its settings, which its arrays do not show."""
    kind = type(layer).__name__
    if kind in _OTHER_LAYERS:
        raise ValueError(f"`weights` must be recurrent layers; got a layer {kind}: {_OTHER_LAYERS[kind]}")
    merge = getattr(layer, "merge_mode", "concat")
    if merge != "concat":
        raise ValueError(f"merge_mode of a bidirectional layer must be 'concat'; got {merge!r}")
    halves = (layer.forward_layer, layer.backward_layer) if hasattr(layer, "forward_layer") else (layer,)
    for half, backwards in zip(halves, (False, True), strict=False):
        config = _config(half, "cell")
        if "cells" in config:
            raise ValueError("a layer with a list of cells cannot be converted; use one layer per cell")
        wanted = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": backwards}
        if cell.name.startswith("gru"):
            wanted["reset_after"] = bool(cell.optional_keys)
        for key, value in wanted.items():
            if config.get(key, value) != value:
                name = f"{'backward ' * backwards}layer"
                raise ValueError(f"{key} of the {name} must be {value!r} for cell {cell.name!r}; got {config[key]!r}")


def _config(layer: Any, inner: str) -> dict[str, Any]:
    """Merge the configs of a layer and of the layer or cell that it wraps; empty for a list of arrays."""
    config: dict[str, Any] = {}
    for part in (layer, getattr(layer, inner, None)):
        get_config = getattr(part, "get_config", None)
        if callable(get_config):
            config |= get_config()
    return config


def _read(cell: Cell, arrays: Sequence[Any]) -> Blocks:
    """Check the arrays of one layer and direction."""
    if len(arrays) not in (2, 3):
        raise ValueError(
            "`weights` of a layer must be [kernel, recurrent_kernel] or [kernel, recurrent_kernel, bias], twice if "
            f"bidirectional; got {len(arrays)} arrays"
        )
    shapes = _LAYER | ({"bias": "(2, k n_a)"} if cell.optional_keys else {})
    named = {key: (shapes[key], a) for key, a in zip(shapes, arrays, strict=False)}
    kernel, recurrent, *bias = blocks.peer_arrays(named, cell)
    return Blocks.of(kernel.T, recurrent.T, *(np.atleast_2d(*bias) if bias else ()))
