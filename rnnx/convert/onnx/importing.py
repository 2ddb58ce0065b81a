"""Models from ONNX files. Dimensions: n units, k outputs, F features, R rows (steps of examples, or examples)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnx._core.checks import flag
from rnnx._core.install import install_command
from rnnx._core.words import shown
from rnnx.convert.blocks import Arrays, head_parameters
from rnnx.convert.onnx.elements import Elements, Unknown, error, find
from rnnx.convert.onnx.layers import ONNX
from rnnx.convert.onnx.recurrent_node import Direction
from rnnx.convert.onnx.trace import Trace
from rnnx.convert.onnx.weights import blocks, features, spread, states
from rnnx.models.sequence import SequenceClassifier, SequenceRegressor
from rnnx.models.sequence_model import SequenceModel


def from_onnx(file: Any, *, classes: bool | None = None) -> tuple[SequenceModel, Arrays]:
    """Convert an ONNX file with LSTM, GRU or RNN nodes to a model.

    Parameters
    ----------
    file : str, path, bytes or onnx.ModelProto
        A stack of such nodes, in one or both directions, in any layout, with an optional dense layer (Gemm, or MatMul
        and Add) at every step or on the last hidden states, and softmax behind them. An embedding (Gather) or a OneHot
        before them is folded into the input weights; the model then reads indices. So are factors and offsets of the
        input's features.
    classes : bool, optional
        Whether the model is a SequenceClassifier, which predicts classes, or a SequenceRegressor. The default is
        whether the file ends in a softmax.

    Returns
    -------
    model : SequenceClassifier or SequenceRegressor
        ``model.outputs`` returns what the file computes, without the softmax. Without a dense layer, the head is the
        identity, and the outputs are the hidden states. Lengths and initial states that are inputs of the file are the
        arguments `lengths` and `states`.
    states : dict of str to numpy.ndarray, shape (n, 1)
        Initial states that are constants of the file and not zero, for `states`.

    Raises
    ------
    ValueError
        If the file contains anything else; the message names the node and the reason.
    TypeError
        If `file` is none of these, or the weights are not float32 or float64.
    ImportError
        If onnx is not installed.

    See Also
    --------
    to_onnx, save_onnx

    Examples
    --------
    >>> import numpy as np
    >>> import onnx
    >>> from rnnx.convert import from_onnx, to_onnx
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 8, 2, per_step=True, rng=0)
    >>> file = to_onnx(model).SerializeToString()
    >>> again, states = from_onnx(file)  # also of a path
    >>> x = np.ones((3, 1, 4), "float32")
    >>> bool(np.allclose(model.predict(x), again.predict(x), atol=1e-6))
    True
    """
    classes = None if classes is None else flag("classes", classes)
    proto = _load(file)
    trace = Trace(proto)
    if not trace.recurrent:
        raise ValueError(f"`file` must have LSTM, GRU or RNN nodes; got {_operators(proto)}")
    layers = _layers(trace)
    start = states(trace, layers)
    weights, input_size = blocks(trace, layers)
    head = _head(trace, layers, proto)
    parameters = ONNX.to_parameters(layers[0][0].cell, weights, True, "", False)
    parameters |= head_parameters(("Wy", "by"), False, head.weights, head.bias)
    dtype = np.result_type(*parameters.values())
    kind = SequenceClassifier if (head.softmax if classes is None else classes) else SequenceRegressor
    model = kind(
        input_size,
        [layer[0].blocks.w_h.shape[1] for layer in layers],
        len(head.weights),
        cell=layers[0][0].cell,
        bidirectional=len(layers[0]) == 2,
        per_step=head.per_step,
        parameters={key: a.astype(dtype, copy=False) for key, a in parameters.items()},
    )
    return model, start


def _load(file: Any) -> Any:
    try:
        import onnx
    except ImportError:
        raise ImportError(f"from_onnx requires onnx: {install_command('onnx')}") from None
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if isinstance(file, onnx.ModelProto):
            proto = file
        elif isinstance(file, bytes):
            proto = onnx.load_model_from_string(file)
        elif isinstance(file, str | Path):
            proto = onnx.load(file)
        else:
            raise TypeError(f"`file` must be a path, bytes or an onnx.ModelProto; got {shown(file)}")
    except DecodeError:
        raise ValueError(f"`file` must be an ONNX file; got {shown(file)}") from None
    return onnx.inliner.inline_local_functions(proto) if proto.functions else proto


def _operators(proto: Any) -> str:
    found = sorted({node.op_type for node in proto.graph.node})
    loops = [kind for kind in ("Loop", "Scan") if kind in found]
    hint = f", where a {loops[0]} has the equations: convert the layers with from_keras or from_torch" if loops else ""
    return ", ".join(found) + hint


def _layers(trace: Trace) -> list[list[Direction]]:
    """Group the directions by what they read."""
    layers: list[list[Direction]] = []
    for one in (one for node in trace.recurrent for one in node.directions):
        same = next((layer for layer in layers if np.array_equal(layer[0].x, one.x)), None)
        if same is None:
            layers.append([one])
        else:
            same.append(one)
    first = layers[0]
    for layer in layers:
        layer.sort(key=lambda one: one.reverse)
        node = layer[-1].node
        if layer[0].reverse:
            raise error(node, "it runs in reverse only")
        if len(layer) > 2 or (len(layer) == 2 and not layer[1].reverse):
            raise error(node, "another node reads the same input in the same direction")
        if len(layer) != len(first):
            raise error(node, "all layers must have the same number of directions")
        for one in layer:
            if one.cell != first[0].cell:
                raise error(one.node, f"all layers must have one cell; got {first[0].cell.name!r}, {one.cell.name!r}")
            if one.lengths != first[0].lengths:
                raise error(one.node, "all layers must have the same sequence_lens")
    return layers


class _Head(NamedTuple):
    """What an output of the file computes from the hidden states of the last layer."""

    weights: np.ndarray  # (k, F)
    bias: np.ndarray  # (k,)
    per_step: bool
    softmax: bool


def _head(trace: Trace, layers: Sequence[Sequence[Direction]], proto: Any) -> _Head:
    """Return the one output of the file that is not a state."""
    final = np.concatenate([s.ravel() for layer in layers for one in layer for s in one.final.values()])
    found: dict[str, _Head] = {}
    hidden: dict[str, _Head] = {}
    for name in (output.name for output in proto.graph.output):
        value = trace.values.get(name)
        if isinstance(value, Unknown):
            raise ValueError(f"the output {name!r} cannot be converted: it depends on {value.reason}")
        if isinstance(value, Elements):
            head, is_state = _read_head(trace, layers[-1], value.numbers), np.isin(value.numbers, final).all()
            if head is None and not is_state:
                raise ValueError(f"the output {name!r} must be a state, or one dense layer on the last recurrent layer")
            if head is not None:
                (hidden if is_state else found)[name] = head
    if len(found) > 1 or not (found or hidden):
        raise ValueError(f"the file must have one output besides states; got {list(found)}")
    return next(iter((found or hidden).values()))


def _read_head(trace: Trace, last: Sequence[Direction], numbers: np.ndarray) -> _Head | None:
    softmax, weights, bias, look = False, None, np.zeros(0), _find
    for one in trace.dense[::-1]:  # each reads what is before it
        found = look(numbers, one.rows)
        if found is None:
            continue
        columns, rows = found
        numbers, look = one.x[rows.ravel()], find
        if weights is not None or (softmax and one.weights is None):
            return None
        if one.weights is not None and one.bias is not None:
            weights, bias = one.weights[columns], one.bias[columns]
        elif len(set(columns)) == numbers.shape[1]:
            softmax, numbers = True, numbers[:, columns]
        else:
            return None
    for final in (False, True):
        hidden = features(last, final)
        found, order = look(numbers, hidden), np.arange(len(hidden)).reshape(-1, last[0].y.shape[1])
        if found and any(np.array_equal(found[1].ravel(), o.ravel()) for o in (order, order.T)):
            if weights is None:
                weights = np.eye(len(found[0]), dtype=last[0].blocks.w_x.dtype)
                bias = np.zeros_like(weights[0])
            return _Head(spread(weights, found[0], hidden.shape[1]), bias, not final, softmax)
    return None


def _find(numbers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return `find` for whichever axis has the columns; a single column may have none."""
    arranged = [np.moveaxis(numbers, axis, -1) for axis in range(numbers.ndim)[::-1]] + [numbers[..., None]]
    return next((found for one in arranged if (found := find(one, rows))), None)
