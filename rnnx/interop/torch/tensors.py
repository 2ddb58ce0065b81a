"""Tensors as arrays and back, without copies: NumPy's on the CPU, CuPy's on a GPU, on torch's current stream."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from rnnx.engines.cpu.runtime.thread_policy import use_limit


def to_array(tensor: torch.Tensor) -> Any:
    """Return an array that shares the memory of a tensor."""
    if tensor.device.type == "cpu":
        return tensor.detach().numpy()
    import cupy

    return cupy.from_dlpack(tensor.detach())


def to_tensor(array: Any) -> torch.Tensor:
    """Return a tensor that shares the memory of an array."""
    return torch.utils.dlpack.from_dlpack(array)


@contextlib.contextmanager
def in_torchs_place(tensor: torch.Tensor) -> Iterator[None]:
    """Run with torch's number of threads, or on torch's current stream on the tensor's device."""
    if tensor.device.type == "cpu":
        with use_limit(torch.get_num_threads()):
            yield
        return
    import cupy

    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    with cupy.cuda.Device(tensor.device.index), cupy.cuda.ExternalStream(stream):
        yield
