"""Datasets on a device: the arrays are copied there once, and each step only sends the positions of its rows."""

from collections.abc import Mapping
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data.examples import Examples
from rnnx.data.windows import Lines, Streams, Windows


def to_device_of(dataset: Any, like: Mapping[str, Array]) -> Any:
    """Copy a dataset to the device of some arrays.

    The dataset itself is returned for NumPy arrays, and if its class is not one of this package: a subclass may build
    batches in its own way.
    """
    if type(dataset) not in (Examples, Lines, Streams, Windows) or all(map(ns.is_on_host, like.values())):
        return dataset
    return dataset.on_device(*ns.common_namespace(like))
