"""Labels of any kind, and classes with names."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rnnx._core.words import shown


def encode_labels(labels: Any, classes: Sequence[Any] | None = None) -> tuple[np.ndarray, list[Any]]:
    """Return class indices for labels of any kind, and the names of the classes, for a `SequenceClassifier`.

    Parameters
    ----------
    labels : sequence or array of str, int or bool, shape (n,) or (n, T)
    classes : sequence, optional
        The names in their order, such as those of an earlier call; default: those that occur, sorted.

    Returns
    -------
    indices : array of int, shape of `labels`
    classes : list
        The label of each index.

    Raises
    ------
    ValueError, TypeError
        If a label is missing (None, NaN or NA) or is not among the classes, or the labels are of several kinds.

    See Also
    --------
    class_weights, rnnx.models.SequenceClassifier

    Examples
    --------
    >>> from rnnx.data import encode_labels
    >>> indices, classes = encode_labels(["walk", "run", "walk"])
    >>> indices.tolist(), classes
    ([1, 0, 1], ['run', 'walk'])
    """
    flat, shape = plain_values("labels", labels)
    for place, label in enumerate(flat):
        if not isinstance(label, str | int | bool):
            raise TypeError(f"`labels` must be text, integers or booleans; got {label!r:.50} at index {place}")
    found = set(map(type, flat))
    if len(found) > 1:
        kinds = " and ".join(sorted(kind.__name__ for kind in found))
        raise TypeError(f"`labels` must be of one kind: text, integers or booleans; got {kinds}")
    names = sorted(set(flat)) if classes is None else plain_values("classes", classes)[0]
    numbers = {name: k for k, name in enumerate(names)}
    if len(numbers) < len(names):
        raise ValueError(f"`classes` must be different names; got {names!r:.200}")
    unknown = [label for label in flat if label not in numbers]
    if unknown:
        raise ValueError(f"`labels` must be among the classes {names!r:.200}; got {unknown[0]!r:.50}")
    return np.array([numbers[label] for label in flat], np.int64).reshape(shape), names


def plain_values(name: str, values: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Return all values of a sequence, an array or a column as plain ones, and its shape; raise if one is missing."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"`{name}` must not be a masked array, whose mask would be lost")
    given = values.to_numpy() if hasattr(values, "to_numpy") else values
    scalar = getattr(given, "shape", None) == () or not hasattr(given, "__len__")
    if scalar or isinstance(given, str | bytes | Mapping | Set):
        raise TypeError(f"`{name}` must be a list or an array; got {shown(values)}")
    array = np.asarray(given, None if isinstance(given, np.ndarray) else object)
    # Dates stay as they are, because some would become integers.
    flat = [*array.ravel()] if array.dtype.kind in "mM" else array.ravel().tolist()
    flat = [v.item() if isinstance(v, np.generic) and v.dtype.kind not in "mM" else v for v in flat]
    for place, value in enumerate(flat):
        if is_missing(value):
            raise ValueError(f"`{name}` must not be missing; got {value!r} at index {place}")
    return flat, array.shape


def is_missing(value: Any) -> bool:
    """Return whether a value of a column is missing: None, NaN, NaT, or the NA of pandas, which is not comparable."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return not hasattr(value, "__len__")
