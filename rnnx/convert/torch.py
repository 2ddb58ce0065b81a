"""Weight layouts of torch.nn.RNN, LSTM, GRU (and their cells) and Linear."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rnnx._core.arrays import Array
from rnnx._core.checks import flag
from rnnx.cells import Cell
from rnnx.convert import blocks
from rnnx.convert.blocks import Arrays, Blocks

_TORCH = blocks.Peer(
    "torch", {"rnn": ("ba",), "lstm": ("bi", "bf", "bc", "bo"), "gru_reset_after": ("br", "bu", "bc")}, same_size=True
)
_LAYER = {"weight_ih": "(k n_a, n_x)", "weight_hh": "(k n_a, n_a)", "bias_ih": "(k n_a,)", "bias_hh": "(k n_a,)"}
_LINEAR = {"weight": "(n_y, n_a)", "bias": "(n_y,)"}
_KEY = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh)(_l\d+(?:_reverse)?)?")


def to_torch(cell: Cell | str, parameters: Mapping[str, Array], *, prefix: str = "", name: str = "") -> Arrays:
    """Convert parameters to the weights of torch.nn.RNN, LSTM or GRU.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm" or "gru_reset_after".
    parameters : dict of str to array
        Parameters of a cell ("Wf", ...) or a stack ("Wf_l0", "Wf_l0_reverse", "Wf_l1", ...). Other keys are ignored;
        for an output layer see `dense_to_torch`.
    prefix : str
        Prefix of the returned keys, the layer's path in its module, for instance "rnn.".
    name : str
        Name of the stack in the keys of `parameters` ("encoder" for "Wf_encoder_l0").

    Returns
    -------
    dict of str to numpy.ndarray
        weight_ih_l<k> (k n_a, n_x), weight_hh_l<k> (k n_a, n_a), bias_ih_l<k> and bias_hh_l<k> (k n_a,), in the
        widest dtype of `parameters`. To load them:
        ``module.load_state_dict({k: torch.from_numpy(v) for k, v in to_torch(cell, parameters).items()})``.

    Raises
    ------
    ValueError
        If torch does not have the cell (a GRU that resets before the product, a cell that is not built in), a key or a
        shape is wrong, or the layers have unequal hidden sizes.
    TypeError
        If a parameter is not a float32 or float64 array.

    See Also
    --------
    from_torch, dense_to_torch

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru_reset_after", n_x=3, n_a=5, rng=0)
    >>> weights = rnnx.convert.to_torch("gru_reset_after", parameters, prefix="rnn.")
    >>> {key: array.shape for key, array in weights.items()}  # the gates stacked
    {'rnn.weight_ih_l0': (15, 3), 'rnn.weight_hh_l0': (15, 5), 'rnn.bias_ih_l0': (15,), 'rnn.bias_hh_l0': (15,)}
    """
    blocks.check_texts(prefix=prefix, name=name)
    layers = _TORCH.to_blocks(_TORCH.cell(cell), parameters, name)
    return {
        f"{prefix}{key}{suffix or '_l0'}": a
        for suffix, layer in layers.items()
        for key, a in zip(_LAYER, layer, strict=True)
    }


def from_torch(
    cell: Cell | str,
    weights: Any,
    *,
    prefix: str = "",
    stack: bool = False,
    name: str = "",
    gradients: bool = False,
    embedding: Any = None,
) -> Arrays:
    """Convert the weights of torch.nn.RNN, LSTM or GRU to parameters.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm" or "gru_reset_after".
    weights : torch.nn.Module, or dict of str to array
        The layer, also in TorchScript, its state_dict(), or arrays under the same names. Missing biases (bias=False)
        become zeros.
    prefix : str
        Prefix of this layer's keys, for instance "rnn." if `weights` is a whole model.
    stack : bool
        Whether to return the names of a stack, "Wf_l0", "Wf_l0_reverse", ... Otherwise the names are "Wf", ..., which
        requires a single layer and direction.
    name : str
        Name of the stack in the returned keys.
    gradients : bool
        Whether `weights` are gradients with respect to torch's weights. The result is then the gradients with respect
        to rnnx's parameters, under "d" + key.
    embedding : torch.nn.Embedding, or array, shape (vocab_size, n_x), optional
        An embedding before the layer. It is folded into the input weights of the first layer, which then reads indices
        and has n_x = vocab_size.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies in the dtype of `weights`.

    Raises
    ------
    ValueError
        If a key or a shape is wrong, the weights belong to another cell, or the module has a projection (proj_size) or
        a nonlinearity other than tanh.
    TypeError
        If `weights` is not a module or a dict of float32 or float64 arrays.

    See Also
    --------
    to_torch, dense_from_torch, rnnx.interop.torch.LSTM

    Examples
    --------
    >>> import torch
    >>> import rnnx
    >>> lstm = torch.nn.LSTM(3, 5)
    >>> x = torch.randn(7, 2, 3)  # (T, m, n_x)
    >>> parameters = rnnx.convert.from_torch("lstm", lstm)
    >>> a, _, _, _ = rnnx.lstm_forward(x.permute(2, 1, 0).numpy(), None, parameters)  # (n_a, m, T)
    >>> torch.allclose(lstm(x)[0].permute(2, 1, 0), torch.from_numpy(a), atol=1e-6)
    True
    """
    cell, stack, gradients = _TORCH.cell(cell), flag("stack", stack), flag("gradients", gradients)
    blocks.check_texts(prefix=prefix, name=name)
    nonlinearity = _nonlinearity(_module(weights, prefix))
    if nonlinearity != "tanh":
        raise ValueError(f"nonlinearity of the layer must be 'tanh'; got {nonlinearity!r}")
    layers = _by_suffix(_state_dict(weights), prefix)
    found = {suffix: _read(cell, prefix, suffix, arrays) for suffix, arrays in layers.items()}
    return _TORCH.to_parameters(cell, found, stack, name, gradients, _table(embedding))


def dense_to_torch(
    parameters: Mapping[str, Array], *, keys: tuple[str, str] = ("Wy", "by"), prefix: str = ""
) -> Arrays:
    """Convert the parameters of an output layer to the weights of torch.nn.Linear.

    Parameters
    ----------
    parameters : dict of str to array
        Contains the weights (n_y, n_a) and the bias (n_y, 1), among others.
    keys : (str, str)
        The keys of weights and bias.
    prefix : str
        Prefix of the returned keys, for instance "head.".

    Returns
    -------
    dict of str to numpy.ndarray
        weight (n_y, n_a) and bias (n_y,).

    See Also
    --------
    dense_from_torch, to_torch

    Examples
    --------
    >>> from rnnx.convert import dense_to_torch
    >>> from rnnx.models import SequenceClassifier
    >>> model = SequenceClassifier(3, 8, num_classes=2, rng=0)
    >>> {key: array.shape for key, array in dense_to_torch(model.parameters, prefix="head.").items()}
    {'head.weight': (2, 8), 'head.bias': (2,)}
    """
    blocks.check_texts(prefix=prefix)
    weights, bias = blocks.head_arrays(parameters, keys)
    return {f"{prefix}weight": weights, f"{prefix}bias": bias}


def dense_from_torch(
    weights: Any, *, keys: tuple[str, str] = ("Wy", "by"), prefix: str = "", gradients: bool = False
) -> Arrays:
    """Convert the weights of torch.nn.Linear to the parameters of an output layer.

    Parameters
    ----------
    weights : torch.nn.Module, or dict of str to array
    keys : (str, str)
        The keys of the result.
    prefix, gradients
        As for `from_torch`.

    Returns
    -------
    parameters : dict of str to numpy.ndarray
        Copies of the weights (n_y, n_a) and the bias (n_y, 1).

    See Also
    --------
    dense_to_torch, from_torch, rnnx.dense_forward

    Examples
    --------
    >>> import torch
    >>> import rnnx
    >>> linear = torch.nn.Linear(5, 2)
    >>> parameters = rnnx.convert.dense_from_torch(linear)
    >>> parameters["Wy"].shape, parameters["by"].shape
    ((2, 5), (2, 1))
    >>> a = torch.ones(5, 3, 7)  # (n_a, m, T)
    >>> y = rnnx.dense_forward(a.numpy(), parameters["Wy"], parameters["by"])
    >>> torch.allclose(linear(a.permute(1, 2, 0)).permute(2, 0, 1), torch.from_numpy(y), atol=1e-6)
    True
    """
    blocks.check_texts(prefix=prefix)
    module = _module(weights, prefix)  # the array of an embedding looks like the weights of a layer without bias
    if hasattr(module, "num_embeddings") or getattr(module, "original_name", "") == "Embedding":
        raise ValueError("`weights` must be a linear layer; got an embedding")
    state = _state_dict(weights)
    if f"{prefix}weight" not in state:
        matrices = (key for key, a in state.items() if key.endswith(".weight") and getattr(a, "ndim", 0) == 2)
        hint = _prefix_hint(key.removesuffix("weight") for key in matrices)
        raise ValueError(f"`weights` must have the key {prefix + 'weight'!r}; got {_some(state)}{hint}")
    named = {prefix + key: (shape, state[prefix + key]) for key, shape in _LINEAR.items() if prefix + key in state}
    return blocks.head_parameters(keys, gradients, *blocks.peer_arrays(named))


def _table(embedding: Any) -> Any:
    """Return the rows of an embedding."""
    if not callable(getattr(embedding, "state_dict", None)):
        return embedding
    state = embedding.state_dict()
    if list(state) != ["weight"] or getattr(embedding, "max_norm", None) is not None:
        raise ValueError(f"`embedding` must be a torch.nn.Embedding without max_norm; got {type(embedding).__name__}")
    return state["weight"]


def _state_dict(weights: Any) -> Mapping[str, Any]:
    state = weights.state_dict() if callable(getattr(weights, "state_dict", None)) else weights
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise TypeError(f"`weights` must be a torch module or a dict of arrays; got {type(weights).__name__}")
    for key, value in state.items():
        if isinstance(value, Mapping):
            raise TypeError(f"`weights` must be a dict of arrays; got one of dicts: pass weights[{key!r}]")
    return state


def _module(weights: Any, prefix: str) -> Any:
    """Return the module at this prefix, also of a TorchScript module, or None if there is none."""
    modules = getattr(weights, "named_modules", None)
    return dict(modules()).get(prefix.rstrip(".")) if callable(modules) else weights


def _nonlinearity(module: Any) -> str:
    """Return the nonlinearity of an RNN layer. Only the graph of a traced one shows it."""
    try:
        traced = "aten::rnn_relu" in str(getattr(module, "graph", ""))
    except RuntimeError:  # a scripted module without a graph
        traced = False
    return str(getattr(module, "nonlinearity", "relu" if traced else "tanh"))


def _by_suffix(state: Mapping[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    """Group the arrays by layer and direction."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        rest = key[len(prefix) :]
        if not key.startswith(prefix) or "." in rest:
            continue  # belongs to another module
        if rest.startswith("weight_hr"):
            raise ValueError(f"`weights` has a projection ({key!r}, proj_size > 0), which rnnx does not support")
        match = _KEY.fullmatch(rest)
        if match is None:
            raise ValueError(f"unknown key {key!r} in `weights` of a recurrent layer")
        found.setdefault(match[2] or "_l0", {})[match[1]] = value  # no suffix: torch.nn.LSTMCell
    if not found:
        hint = _prefix_hint(key.removesuffix("weight_ih_l0") for key in state if key.endswith("weight_ih_l0"))
        raise ValueError(f"`weights` must have keys such as {prefix + 'weight_ih_l0'!r}; got {_some(state)}{hint}")
    return found


def _prefix_hint(prefixes: Iterable[str]) -> str:
    """Return the end of an error message: the prefixes of suitable layers, for instance of a wrapped module."""
    found = [f"prefix={prefix!r}" for prefix in prefixes][:3]
    return f": pass {' or '.join(found)}" if found else ""


def _some(state: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(state)[:4])) + (", ..." if len(state) > 4 else "")


def _read(cell: Cell, prefix: str, suffix: str, found: Mapping[str, Any]) -> Blocks:
    """Check the arrays of one layer and direction."""
    has_biases = any(key.startswith("bias") for key in found)
    needed = [key for key in _LAYER if has_biases or key.startswith("weight")]
    missing = [f"{prefix}{key}{suffix}" for key in needed if key not in found]
    if missing:
        raise ValueError(f"missing keys in `weights`: {', '.join(missing)}")
    named = {f"{prefix}{key}{suffix}": (_LAYER[key], found[key]) for key in needed}
    return Blocks.of(*blocks.peer_arrays(named, cell))
