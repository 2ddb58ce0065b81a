"""The values of a file's graph, as numbers of elements, and what makes new elements.

Dimensions: k outputs, F features, R rows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Elements(NamedTuple):
    """The numbers of the elements of a value that depends on the inputs of the file."""

    numbers: np.ndarray
    is_integer: bool = False


class Unknown(NamedTuple):
    """A value that cannot be converted."""

    reason: str


Value = np.ndarray | Elements | Unknown | None


class Embedding(NamedTuple):
    """Rows of a table, chosen by indices."""

    rows: np.ndarray  # (R, F)
    table: np.ndarray  # (vocab_size, F)
    indices: np.ndarray  # (R,)


class Scaled(NamedTuple):
    """Features before the recurrent layers, each times a factor plus an offset."""

    rows: np.ndarray  # (R, F)
    x: np.ndarray  # (R, F)
    factor: np.ndarray  # (F,)
    offset: np.ndarray  # (F,)


class Dense(NamedTuple):
    """A dense layer; after a softmax, `weights` is None."""

    rows: np.ndarray  # (R, k)
    x: np.ndarray  # (R, F)
    weights: np.ndarray | None  # (k, F)
    bias: np.ndarray | None  # (k,)


@dataclass(frozen=True)
class Input:
    """An input of the file."""

    name: str
    numbers: np.ndarray


def title(node: Any) -> str:
    """Return how messages call a node."""
    return f"the {node.op_type} node {node.name or node.output[0]!r}"


def error(node: Any, reason: str) -> ValueError:
    """Return the error that a node cannot be converted."""
    return ValueError(f"{title(node)} cannot be converted: {reason}")


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    import onnx.helper

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def find(numbers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which columns of `rows` (R, F) the last axis of `numbers` holds, and which rows the others hold.

    Return None if there is anything else.
    """
    where = np.full(max(numbers.max(initial=0), rows.max(initial=0)) + 1, -1)
    where[rows.ravel()] = np.arange(rows.size)
    found = where[numbers]
    if not found.size or (found < 0).any():
        return None
    row, column = np.divmod(found.reshape(-1, found.shape[-1]), rows.shape[1])
    if (row != row[:, :1]).any() or (column != column[0]).any():
        return None
    return column[0], row[:, 0].reshape(found.shape[:-1])


def simplified(kind: str, values: list[Value]) -> Value:
    """Return the value of a node that passes on one of its inputs or is a constant, because indices are not negative.

    TensorFlow adds the size of the table to negative indices, with Where or as products with 0 and 1.
    """
    if kind == "Where" and isinstance(values[0], np.ndarray) and len({*values[0].flat}) == 1:
        return values[1 if values[0].flat[0] else 2]
    if kind == "Less" and isinstance(values[0], Elements) and values[0].is_integer:
        shape = values[0].numbers.shape
        return np.zeros(shape, bool) if isinstance(values[1], np.ndarray) and not np.any(values[1]) else None
    for x, c in (values, values[::-1]) if kind in ("Add", "Mul") else ():
        if isinstance(c, np.ndarray) and c.dtype.kind in "iu":
            if kind == "Mul" and not c.any():
                return c
            if isinstance(x, Elements) and (c == (kind == "Mul")).all() and c.ndim <= x.numbers.ndim:
                return x
    return None
