"""Sequences in any order of axes, and lists of unequal ones, as arrays (n_x, n, T)."""

from typing import Any

import numpy as np

from rnnx._core.inputs import host_array
from rnnx._core.words import shown


def as_sequences(values: Any, axes: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return sequences as features first, (n_x, n, T), and the lengths of unequal ones.

    Parameters
    ----------
    values : array, or list of arrays
        All examples in one array, or a list of one for each example, which may differ in their numbers of steps.
    axes : str
        The order of the axes: "n" examples, "t" time steps, "f" features. "ntf" is the order of Keras and of
        batch_first, "nft" that of sktime and aeon; "nt" has one feature. For a list, the axes of one example: "tf",
        "ft" or "t".

    Returns
    -------
    sequences : array, shape (n_x, n, T)
        A view if possible; of a list, zero past the lengths.
    lengths : array of int, shape (n,), or None
        None for an array.

    Raises
    ------
    ValueError, TypeError
        If the axes do not fit, or the numbers of features differ.

    See Also
    --------
    Examples, Items

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import as_sequences
    >>> x, lengths = as_sequences([np.ones((3, 2)), np.ones((5, 2))], "tf")
    >>> x.shape, lengths.tolist()
    ((2, 2, 5), [3, 5])
    """
    return named_sequences("values", values, axes)


def named_sequences(name: str, values: Any, axes: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return `as_sequences` of an argument that has this name in messages."""
    if not isinstance(axes, str) or sorted(axes) not in (["f", "n", "t"], ["n", "t"], ["f", "t"], ["t"]):
        raise ValueError(f"`axes` must be 'ntf', 'nft', 'fnt', 'nt', or of a list 'tf', 'ft' or 't'; got {shown(axes)}")
    if "n" in axes:
        array = _in_order(name, values, axes)
        return np.transpose(array, [axes.index(a) for a in "fnt"]) if "f" in axes else array[None], None
    if not hasattr(values, "__len__") or isinstance(values, str | bytes | dict) or not len(values):
        raise TypeError(f"`{name}` must be a list of arrays, one for each example; got {shown(values)}")
    rows = [_in_order(f"{name}[{k}]", values[k], axes) for k in range(len(values))]
    rows = [row[None] if "f" not in axes else row if axes == "ft" else row.T for row in rows]  # (n_x, T)
    for k, row in enumerate(rows):
        if row.shape[0] != rows[0].shape[0]:
            expected = f"the {rows[0].shape[0]} features of {name}[0]"
            raise ValueError(f"{name}[{k}] must have {expected}, with `axes` = {axes!r}; got {row.shape[0]}")
    lengths = np.array([row.shape[1] for row in rows], np.int64)
    padded = np.zeros((len(rows), int(lengths.max()), rows[0].shape[0]), np.result_type(*rows))
    for j, row in enumerate(rows):
        padded[j, : row.shape[1]] = row.T
    return padded.transpose(2, 0, 1), lengths


def _in_order(name: str, values: Any, axes: str) -> np.ndarray:
    array = host_array(name, values)
    if array.ndim != len(axes):
        raise ValueError(f"`{name}` must have the {len(axes)} axes {axes!r}; got shape {array.shape}")
    return array
