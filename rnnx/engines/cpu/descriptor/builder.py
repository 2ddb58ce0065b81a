"""Plans, put down once for all calls of the same shapes, and bound to the addresses of one call.

While a plan is put down, an address is the number of a *base* (an array of the call to come) and an offset, in one
integer: base * 2^48 + offset. So addresses can be added to like any others. What is known already, counts and the
addresses of functions, is an offset of base 0. See `fields` for what a plan holds.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.cpu.codegen.copy import emit_moves
from rnnx.engines.cpu.codegen.gemm import emit_product, panel_vectors
from rnnx.engines.cpu.codegen.ir import lanes
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import LINE
from rnnx.engines.cpu.runtime.thread_pool import system_functions, team

_SHIFT = 48
_BYTE: Any = ctypes.c_char


def address(a: np.ndarray) -> int:
    """Where the array begins."""
    try:
        return ctypes.addressof(_BYTE.from_buffer(a))
    except (TypeError, ValueError, BufferError):  # read-only, empty or not contiguous; this takes a microsecond
        return int(a.ctypes.data)


def lines(size: int) -> int:
    """Bytes, rounded up to whole cache lines."""
    return -(-size // LINE) * LINE


@lru_cache(maxsize=16)
def product(dtype: np.dtype, panel: int) -> int:
    """The address of the product on panels of so many vectors."""
    return object_cache.functions(lambda module: emit_product(module, dtype, panel))[f"product_{panel}"]


@lru_cache(maxsize=4)
def moves(dtype: np.dtype) -> Mapping[str, int]:
    """The addresses of the functions in `copy`."""
    return object_cache.functions(lambda module: emit_moves(module, dtype))


@lru_cache(maxsize=1)
def _jobs() -> Mapping[str, object_cache.Job]:
    return object_cache.loops("loops.passes", "forward", "backward")


@lru_cache(maxsize=64)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


class Shape(NamedTuple):
    """The sizes of a pass."""

    n_steps: int
    m: int
    n: int
    n_x: int
    indices: bool = False  # instead of n_x inputs a step has the index of the one that is 1

    def products(self, gates: int) -> int:
        """Multiplications of a forward pass; a backward pass has twice as many."""
        return self.n_steps * self.m * self.n * (self.n if self.indices else self.n + self.n_x) * gates


class Template:
    """A plan without addresses.

    Parameters
    ----------
    job : str
        "forward" or "backward".
    dtype : numpy.dtype
    shape : Shape
    threads : int
    wide : bool
        Whether the threads share the units instead of the examples.
    """

    WORKSPACE = 1 << _SHIFT

    def __init__(self, job: str, dtype: np.dtype, shape: Shape, threads: int, wide: bool) -> None:
        self.job, self.dtype, self.threads = job, dtype, threads
        self.n_steps, self.m, self.n, self.n_x, self.indices = shape
        self.lanes, self.item = lanes(dtype), dtype.itemsize
        self.size = self.lanes * self.item  # of a vector
        self.row = self.n * self.item  # of a state
        self.step = self.m * self.row
        self.rows = self.m if wide else -(-self.m // threads)  # that a thread has at most
        self.workspace = 0
        self.bases = 1
        v = self.values = [0] * P.HEADER_SIZE
        v[P.T], v[P.M], v[P.N], v[P.N_X], v[P.INDICES] = shape
        v[P.ITEM], v[P.LANES], v[P.PACK], v[P.CHUNK], v[P.WIDE] = self.item, self.lanes, 1, 1, int(wide)
        # A row of zeros; its size rounded up, so that there are few of them.
        self._held = _zeros(1 << (max(self.n, self.n_x) * self.item + 2 * LINE).bit_length())
        v[P.YIELD], v[P.ZEROS] = system_functions()["yield"], address(self._held)
        leaves = moves(dtype)
        v[P.COPY], v[P.COPY_MASKED], v[P.ADD_ROWS] = leaves["copy"], leaves["copy_masked"], leaves["add_rows"]
        v[P.TRANSPOSE], v[P.TRANSPOSE_MASKED] = leaves["transpose"], leaves["transpose_masked"]
        v[P.PLAIN_NV] = panel_vectors(1)
        v[P.PLAIN_PRODUCT] = product(dtype, panel_vectors(1))

    def base(self) -> int:
        """The address of the next array of the call."""
        self.bases += 1
        return self.bases << _SHIFT

    def take(self, *shape: int) -> int:
        """The address of an array in the workspace."""
        at, self.workspace = self.workspace, self.workspace + lines(math.prod(shape) * self.item)
        return self.WORKSPACE + at

    def append(self, values: Sequence[int]) -> int:
        """The place of a list in the plan."""
        place = len(self.values)
        self.values.extend(values)
        return place

    def conversions(self, conversions: Sequence[Sequence[int]]) -> None:
        """Arrays that the job makes time-major."""
        self.values[P.CONVERSIONS] = self.append([value for one in conversions for value in one])
        self.values[P.N_CONVERSIONS] = len(conversions)

    def scratch(self, **sizes: int) -> None:
        """Memory of every thread: a place for each name, so many bytes large."""
        at = 0
        for name, size in sizes.items():
            self.values[getattr(P, name)] = at
            at += lines(size)
        self.values[P.SCRATCH], self.values[P.SCRATCH_SIZE] = self.WORKSPACE + self.workspace, at
        self.workspace += at * self.threads

    def finish(self, stages: Sequence[Mapping[int, int]]) -> "Template":
        """Add the stages; nothing can be added after them."""
        block = [0] * (P.STAGE_SIZE * len(stages))
        for i, stage in enumerate(stages):
            for place, value in stage.items():
                block[i * P.STAGE_SIZE + place] = value
        self.values[P.N_STAGES], self.values[P.STAGES] = len(stages), self.append(block)
        values = np.array(self.values, np.int64)
        self.which = np.where(values < 0, 0, values >> _SHIFT)  # a stride may be negative
        self.offsets = values - (self.which << _SHIFT)
        self.native = _jobs()[self.job]
        return self

    def bind(self, addresses: Sequence[int]) -> np.ndarray:
        """The plan, with the addresses of the workspace and of the other bases in their order."""
        plan = self.offsets + np.array((0, *addresses), np.int64)[self.which]
        plan[P.BARRIER] = team().barrier
        return plan

    def run(self, addresses: Sequence[int]) -> None:
        """Do the job; for several threads the caller holds the team."""
        plan = self.bind(addresses)
        team().run(self.native, self.threads, address(plan))
