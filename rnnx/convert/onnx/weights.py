"""The weights and initial states of a file's layers. Dimensions: T steps, m examples, F features, R rows."""

from collections.abc import Sequence

import numpy as np

from rnnx.convert.blocks import Arrays, Blocks
from rnnx.convert.onnx.elements import Elements, error, find, title
from rnnx.convert.onnx.recurrent_node import Direction
from rnnx.convert.onnx.trace import Trace


def features(layer: Sequence[Direction], final: bool = False) -> np.ndarray:
    """Return the hidden states of a layer (R, F): of all steps, or after the last one."""
    parts = [one.final[one.cell.states[0]] if final else one.y for one in layer]
    return np.concatenate(parts, axis=-1).reshape(-1, sum(part.shape[-1] for part in parts))


def spread(weights: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Return weights for all of `size` features, from those for some in another order."""
    if np.array_equal(columns, np.arange(size)):
        return weights
    spread = np.zeros((len(weights), size), weights.dtype)
    np.add.at(spread.T, columns, weights.T)
    return spread


def blocks(trace: Trace, layers: Sequence[Sequence[Direction]]) -> tuple[dict[str, Blocks], int]:
    """Return the weights by suffix, and the number of inputs of the first layer."""
    found: dict[str, Blocks] = {}
    for k, layer in enumerate(layers):
        for one in layer:
            suffix = f"_l{k}{'_reverse' * one.reverse}"
            found[suffix] = _on_layer(one, layers[k - 1]) if k else _on_input(trace, one)
    return found, found["_l0"].w_x.shape[1]


def _on_layer(one: Direction, below: Sequence[Direction]) -> Blocks:
    outputs = features(below)
    found = find(one.x, outputs)
    if found is None or not np.array_equal(found[1].ravel(), np.arange(len(outputs))):
        raise error(one.node, f"it must read all outputs of {title(below[0].node)}, and nothing else")
    return one.blocks._replace(w_x=spread(one.blocks.w_x, found[0], outputs.shape[1]))


def _on_input(trace: Trace, one: Direction) -> Blocks:
    """Return the blocks of the first layer; what scales its input, and an embedding, are folded into the weights."""
    x, blocks = one.x, one.blocks
    for scaled in trace.scaled[::-1]:
        found = find(x, scaled.rows)
        if found:
            columns, rows = found
            b_x = blocks.b_x + blocks.w_x.astype(np.float64) @ scaled.offset[columns]
            w_x = blocks.w_x * scaled.factor[columns]
            blocks = blocks._replace(w_x=w_x.astype(blocks.w_x.dtype), b_x=b_x.astype(blocks.b_x.dtype))
            x = scaled.x[rows][..., columns]
    for embedding in trace.embeddings:
        found = find(x, embedding.rows)
        if found:
            columns, rows = found
            _input_columns(trace, one, embedding.indices[rows][:, :, None])
            return blocks.on_indices(embedding.table[:, columns])
    columns, size = _input_columns(trace, one, x)
    return blocks._replace(w_x=spread(blocks.w_x, columns, size))


def _input_columns(trace: Trace, one: Direction, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Return which features of an input of the file x (T, m, F) holds, and how many there are."""
    given = next((i.numbers for i in trace.inputs if np.isin(x, i.numbers).all()), None)
    if given is None:
        raise error(one.node, "X must be one input of the file, or an embedding of one")
    places = np.unravel_index(x - given.flat[0], given.shape)
    n_steps, m, _ = x.shape
    orders = {"steps": np.arange(n_steps)[:, None, None], "examples": np.arange(m)[None, :, None]}
    fixed = [axis for axis, place in enumerate(places) if (place == place[:1, :1]).all()]
    feature = max(fixed, key=lambda axis: given.shape[axis], default=None)
    for axis, place in enumerate(places):
        if axis != feature:
            known = [key for key, order in orders.items() if (place == order).all() and given.shape[axis] == order.size]
            if not known:
                raise error(one.node, "X must have the steps and examples of an input of the file in their order")
            del orders[known[0]]
    if any(order.size > 1 for order in orders.values()):
        raise error(one.node, f"X repeats an input of the file for all {' and '.join(orders)}")
    if feature is None:
        return np.zeros(1, int), 1
    return places[feature][0, 0], given.shape[feature]


def states(trace: Trace, layers: Sequence[Sequence[Direction]]) -> Arrays:
    """Return the initial states that are constants and not zero."""
    found: Arrays = {}
    for k, layer in enumerate(layers):
        for one in layer:
            for state, value in one.start.items():
                if isinstance(value, Elements):
                    if not any(np.isin(value.numbers, given.numbers).all() for given in trace.inputs):
                        raise error(one.node, "an initial state must be an input of the file or a constant")
                elif (value != value[:1]).any():
                    raise error(one.node, "an initial state that is a constant must be the same for all examples")
                elif value.any():
                    found[f"{state}_l{k}{'_reverse' * one.reverse}"] = value[0][:, None]
    return found
