"""Numbers as arguments of a kernel, by value: the driver has read them when the launch returns.

So nothing has to stay as it is until a copy from host memory has run, however many calls are queued on however many
streams; and in a stream capture, the numbers become part of the graph.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

SIZES = (32, 128, 500)  # numbers of a launch; arguments have 4096 bytes at most
THREADS = 128


def source() -> str:
    """Return the CUDA source of a kernel per size."""
    lines = ["typedef long long i64;", "template <int n> struct Numbers { i64 at[n]; };"]
    for size in SIZES:
        head = f'extern "C" __global__ void {kernel(size)}('
        lines += [f"{head}const __grid_constant__ Numbers<{size}> numbers, i64* target, i64 count) {{"]
        lines += [f"  for (i64 k = threadIdx.x; k < count; k += {THREADS}) target[k] = numbers.at[k];", "}"]
    return "\n".join([*lines, ""])


def kernel(size: int) -> str:
    """Return the name of the kernel for up to `size` numbers."""
    return f"send_{size}"


class Sender:
    """Sends numbers to the memory of a device. `handles` are those of kernels, by name. Not thread-safe."""

    def __init__(self, launch: Callable[..., None], handles: Callable[[str], int]) -> None:
        self._launch, self._handles = launch, handles
        self._values = (ctypes.c_int64 * SIZES[-1])()
        self._target, self._count = ctypes.c_int64(), ctypes.c_int64()
        arguments: list[Any] = [self._values, self._target, self._count]
        self._arguments = (ctypes.c_void_p * 3)(*map(ctypes.addressof, arguments))
        self._address = ctypes.addressof(self._arguments)

    def send(self, numbers: Sequence[int], address: int, stream: int) -> None:
        """Write numbers to an address, in the order of a stream, given by its handle."""
        for first in range(0, len(numbers), SIZES[-1]):
            part = numbers[first : first + SIZES[-1]]
            struct.pack_into(f"{len(part)}q", self._values, 0, *part)
            self._target.value, self._count.value = address + 8 * first, len(part)
            handle = self._handles(kernel(next(size for size in SIZES if size >= len(part))))
            self._launch(handle, 1, 1, 1, THREADS, 1, 1, 0, stream, self._address, 0)
