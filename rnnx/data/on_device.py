"""Datasets copied to a device once, so that each step sends only row positions."""

from collections.abc import Mapping
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data.examples import Examples
from rnnx.data.multi_task import MultiTaskExamples
from rnnx.data.windows import Lines, Streams, Windows


def to_device_of(dataset: Any, like: Mapping[str, Array]) -> Any:
    """Copy a dataset to the device of some arrays.

    Return it unchanged for NumPy arrays, and if its class is from another package, because a subclass may build batches
    in its own way.

    See Also
    --------
    Examples, rnnx.training.Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples, to_device_of
    >>> from rnnx.models import SequenceRegressor
    >>> data = Examples(np.zeros((3, 4, 5)), np.zeros((1, 4)))
    >>> to_device_of(data, SequenceRegressor(3, 8, rng=0).parameters) is data  # copied only to a GPU
    True
    """
    known = type(dataset) in (Examples, MultiTaskExamples, Lines, Streams, Windows)
    if not known or all(map(ns.is_on_host, like.values())):
        return dataset
    return dataset.on_device(*ns.common_namespace(like))
