"""Tensors as arrays and back, without copies: NumPy's on the CPU, CuPy's on a GPU, on torch's current stream."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rnnx.engines.cpu.runtime.thread_policy import limit


def to_array(tensor: torch.Tensor) -> Any:
    """Return an array that shares the memory of a tensor."""
    if tensor.device.type == "cpu":
        return tensor.numpy(force=True)
    import cupy

    return cupy.from_dlpack(tensor.detach())


def to_tensor(array: Any) -> torch.Tensor:
    """Return a tensor that shares the memory of an array."""
    return torch.from_numpy(array) if type(array) is np.ndarray else torch.utils.dlpack.from_dlpack(array)


class _Limit(contextlib.AbstractContextManager[None]):
    """Does what `use_limit` does, in a third of the time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        self._token = limit.set(self._threads)

    def __exit__(self, *_: object) -> None:
        limit.reset(self._token)


def in_torchs_place(tensor: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Run with torch's number of threads, or on torch's current stream on the tensor's device."""
    return _Limit(torch.get_num_threads()) if tensor.device.type == "cpu" else _on_stream(tensor)


@contextlib.contextmanager
def _on_stream(tensor: torch.Tensor) -> Iterator[None]:
    import cupy

    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    with cupy.cuda.Device(tensor.device.index), cupy.cuda.ExternalStream(stream):
        yield
