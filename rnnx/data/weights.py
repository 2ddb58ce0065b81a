"""Weights of examples from weights of their classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import choice, is_whole, real
from rnnx._core.inputs import bools_to_integers, host_array
from rnnx._core.words import shown


def class_weights(targets: Any, weights: str | Mapping[int, float] | Sequence[float] = "balanced") -> np.ndarray:
    """Return the weight of each example or step, for `Examples`, from weights of its class.

    Parameters
    ----------
    targets : array of int or bool, shape (n,) or (n, T)
        Classes. Those below 0 are ignored: they have the weight 0.
    weights : "balanced", dict of int to float, or sequence of float
        The weight of each class; a class that a dict lacks has the weight 1. With "balanced", all classes count alike:
        n / (number of classes * number of targets of this class).

    Returns
    -------
    weights : array, shape of `targets`

    Raises
    ------
    ValueError, TypeError
        If targets are no classes, or weights are negative or too few.

    See Also
    --------
    Examples, rnnx.metrics.f1_score

    Examples
    --------
    >>> from rnnx.data import class_weights
    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 2.0]
    """
    classes = bools_to_integers(np, host_array("targets", targets))
    if not ns.is_integer(np, classes):
        raise TypeError(f"`targets` must hold classes, which are integers; got dtype {classes.dtype}")
    present, numbers = np.unique(classes[classes >= 0], return_counts=True)
    if isinstance(weights, str):
        choice("weights", weights, ["balanced"])
        own = numbers.sum() / (numbers * max(len(numbers), 1))
    elif isinstance(weights, Mapping):
        for key, value in weights.items():
            if not is_whole(key) or key < 0:
                raise TypeError(f"the keys of `weights` must be classes, integers of at least 0; got {key!r:.50}")
            real(f"weights[{key}]", value, "[0, inf)")
        own = np.array([float(weights.get(int(k), 1.0)) for k in present])
    else:
        if not isinstance(weights, Sequence | np.ndarray):
            raise TypeError(f"`weights` must be 'balanced', or a dict or list of numbers; got {shown(weights)}")
        table = np.array([real(f"weights[{k}]", value, "[0, inf)") for k, value in enumerate(weights)])
        if len(present) and len(table) <= present[-1]:
            raise ValueError(f"`weights` must have one number for each of {present[-1] + 1} classes; got {len(table)}")
        own = table[present]
    return np.append(own, 0.0)[np.where(classes >= 0, np.searchsorted(present, classes), -1)]
