"""Descriptor templates, built once per shape and bound to the arrays of each call. See `fields` for their content.

A template encodes an address as base * 2^48 + offset, where a *base* is an array of a later call, so offsets can be
added. Known values, such as counts and the addresses of functions, have base 0.
"""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.wiring import Slot, wiring
from rnnx.engines.cpu.codegen.formats import packed_bytes
from rnnx.engines.cpu.codegen.gemm import KC, n_vectors
from rnnx.engines.cpu.codegen.ir import lanes
from rnnx.engines.cpu.codegen.leaves import scratch_offset
from rnnx.engines.cpu.descriptor import fields
from rnnx.engines.cpu.descriptor.layout import Layout, lines
from rnnx.engines.cpu.runtime import object_cache
from rnnx.engines.cpu.runtime.buffer_pool import LINE, address, addresses, give_back_workspace, take_workspace
from rnnx.engines.cpu.runtime.objects import DATA, READABLE, enter
from rnnx.engines.cpu.runtime.thread_pool import Task, ThreadPool, pool
from rnnx.engines.cpu.runtime.tuning import panel_vectors
from rnnx.engines.cpu.runtime.work import cache_bytes
from rnnx.engines.protocol import Call

# The workspace of jobs that hold Python's lock, of which only one runs at a time. A template keeps the one that was
# large enough for it: another thread may replace it by a smaller one at the same time.
_held = [np.empty(0, np.uint8)]
_SHIFT = 48
_WORKSPACE, _ARRAYS = 1 << _SHIFT, 2  # the latter is the first base of an array

Fields = dict[str, Any]  # of a record: integers, or lists of other records' fields
Places = dict[Slot, tuple[int, int]]  # address at step 0, and stride between steps
Within = Mapping[str, tuple[str, int]]


@lru_cache(maxsize=16)
def product(dtype: np.dtype, nv: int, weights: str = "") -> int:
    """Return the address of the product for micro-panels of `nv` vectors, with weights in a format."""
    return object_cache.emitted_by("codegen.gemm", "emit_product", dtype, nv, weights)[f"product_{nv}"]


@lru_cache(maxsize=2)
def direct(dtype: np.dtype) -> int:
    """Return the address of the product with weights that are not packed, for few rows."""
    return object_cache.emitted_by("codegen.direct", "emit_direct", dtype)["direct"]


@lru_cache(maxsize=4)
def narrow(dtype: np.dtype, weights: str) -> int:
    """Return the address of the function that packs weights in a small format; 0 for numbers of the dtype."""
    return object_cache.emitted_by("codegen.formats", "emit_narrow", dtype, weights, KC)["narrow"] if weights else 0


@lru_cache(maxsize=4)
def copies(dtype: np.dtype) -> Mapping[str, int]:
    """Return the addresses of the functions in `codegen.copy`."""
    return object_cache.emitted_by("codegen.copy", "emit_copies", dtype)


@lru_cache(maxsize=1)
def _jobs() -> Mapping[str, object_cache.Job]:
    return object_cache.loops("loops.passes", "forward", "backward")


@lru_cache(maxsize=1)
def _bind_and_run() -> object_cache.Job:
    return object_cache.loops("loops.binding", "bind_and_run")["bind_and_run"]


@lru_cache(maxsize=64)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def zeros(dtype: np.dtype, *shape: int) -> np.ndarray:
    """Return zeros in F order, in memory that others share."""
    return np.ndarray(shape, dtype, _zeros(1 << (math.prod(shape) * dtype.itemsize).bit_length()), 0, None, "F")


class PassKey(NamedTuple):
    """What the descriptor templates of forward and backward passes depend on."""

    cell: Cell
    dtype: np.dtype
    n_steps: int
    m: int
    n: int
    n_x: int
    indices: bool  # whether inputs are indices of one-hot columns
    keys: tuple[str, ...]  # of the given parameters
    has_lengths: bool
    weights: str = ""  # the format in which a forward pass keeps packed weights, if any


def _held_memory(size: int) -> np.ndarray:
    """Return memory of at least `size` bytes that all jobs that hold Python's lock share."""
    memory = _held[0]
    if memory.size < size:
        memory = _held[0] = np.empty(1 << size.bit_length(), np.uint8)  # rounded up, so that there are few
    return memory


def kept_format(call: Call) -> str:
    """Return the format in which packed weights of a call are kept; empty if each call packs its own."""
    return call.weights if call.dtype == np.float32 else ""


class Arrays(NamedTuple):
    """The names of a call's arrays, in the order in which they are given.

    The first ones, `blocks`, are memory that begins at the next cache line.
    """

    names: tuple[str, ...]
    blocks: int


class Template:
    """A descriptor without addresses, for slices of the examples or, in multiples of `unit_parallel` vectors, of the
    units, `per_thread` for each thread.

    `arrays`: a call's arrays. `within`: further arrays, at an offset in one of those.
    """

    def __init__(
        self,
        job: str,
        key: PassKey,
        arrays: Arrays,
        within: Within,
        slices: int,
        unit_parallel: int,
        per_thread: int = 1,
    ) -> None:
        _, dtype, self.n_steps, self.m, self.n, self.n_x, self.indices, *_ = key
        self.job, self.dtype, self.slices = _jobs()[job], dtype, slices
        self.lanes, self.item = lanes(dtype), dtype.itemsize
        self.size = self.lanes * self.item  # of a vector
        self.rows = self.m if unit_parallel else -(-self.m // slices)  # examples per slice, at most, without lengths
        self.workspace = 0
        self._blocks, bases = arrays.blocks, {name: k << _SHIFT for k, name in enumerate(arrays.names, _ARRAYS)}
        self._bases = {**bases, **{name: bases[owner] + at for name, (owner, at) in within.items()}}
        # A row of zeros, as wide as that of a joint gradient. Sizes are rounded up, so that few are cached.
        widest = self.n_x + max(self.n, *(max(w.units(self.n), w.columns(self.n)) for w in wiring(key.cell)))
        self._zeros = _zeros(1 << (widest * self.item + 2 * LINE).bit_length())
        self.fields: Fields = {**copies(dtype), "zeros": address(self._zeros), "cache": cache_bytes()}
        self.fields |= {"n_steps": self.n_steps, "m": self.m, "n_x": self.n_x, "indices": self.indices}
        self.fields |= {"item": self.item, "lanes": self.lanes, "unit_parallel": unit_parallel, "chunk": 1}
        self.fields["per_thread"] = per_thread
        self.fields |= {"lengths": self.base("lengths") if key.has_lengths else 0}
        self.panel_rows = 0 if unit_parallel else self.rows  # for `panel_vectors`: shares of units begin micro-panels
        nv = panel_vectors(1, self.panel_rows)
        self.fields |= {"nv": nv, "product": product(dtype, nv)}

    def base(self, name: str) -> int:
        """Return the encoded address of an array of the call."""
        return self._bases[name]

    def take(self, *shape: int) -> int:
        """Allocate an array in the workspace; return its encoded address."""
        return self.take_bytes(math.prod(shape) * self.item)

    def take_bytes(self, size: int) -> int:
        """Allocate memory in the workspace; return its encoded address."""
        at, self.workspace = self.workspace, self.workspace + lines(size)
        return _WORKSPACE + at

    def packed(self, n_k: int, vectors: int, weights: str = "") -> int:
        """Return the bytes of a packed matrix."""
        return packed_bytes(self.dtype, weights, n_k, vectors, KC)

    def vectors(self, columns: int) -> int:
        """Return the number of vectors needed for `columns` columns."""
        return n_vectors(self.dtype, columns)

    def conversion(self, source: int, layout: Layout, features: int, target: int) -> Fields:
        """Return the record of an array to convert to time-major layout."""
        feature, example, step = layout.strides
        strides = {"feature_stride": feature, "example_stride": example, "step_stride": step}
        return {**strides, "source": source, "features": features, "target": target}

    def value(self, slot: Slot, places: Places, units: int, zero_past_end: bool = False) -> Fields:
        """Return the record of a kernel argument that is a value of a step, or its cotangent."""
        address, step = places[slot]
        row = 0 if slot.kind == "vector" else units * self.item
        return {"address": address, "step": step, "row": row, "vector": self.size, "zero_past_end": zero_past_end}

    def divide(self, loop: int, after: int, waits: int) -> None:
        """Set the number of sections of the loop over time, and of those after it; see `thread_pool.Task`."""
        self.fields["loop_sections"] = loop
        self.sections = {"sections": 1 + loop + after, "loop_end": 1 + loop, "waits": waits}
        self.sections["per_thread"] = self.fields["per_thread"]
        self.task = Task(self.job, self.slices, **self.sections)

    def finish(self, is_small: bool, **scratch: int) -> "Template":
        """Lay out the records and the scratch memory: kernel arguments, then parts of given sizes in bytes.

        A small job keeps Python's lock, as giving it up takes as long as some of them.
        """
        kept = [s["kept_rows"] * self.vectors(s["n"]) * self.size for s in self.fields["stages"]]
        most = max(scratch_offset(len(s["arguments"])) + k for s, k in zip(self.fields["stages"], kept, strict=True))
        size = 0
        for name, part in {"kernel_arguments": most, **scratch}.items():
            self.fields[name] = size
            size += lines(part)
        self.fields |= {"scratch": _WORKSPACE + self.workspace, "scratch_size": size}
        self.workspace += size * self.slices
        integers: list[int] = []
        _append(integers, fields.PASS, [self.fields])
        values = np.array(integers, np.int64)
        self._base_of = np.where(values < 0, 0, values >> _SHIFT)  # a stride may be negative
        self._offsets = values - (self._base_of << _SHIFT)
        record = values.size, address(self._offsets), address(self._base_of), self._blocks, self.workspace
        self._binding = np.array((_bind_and_run().address, *record, DATA, self.task.address, 0), fields.BINDING)
        holds = is_small and self.slices == 1
        self._enter = enter(holds)
        self.whole_size = self.workspace + values.nbytes
        self._pool: ThreadPool | None = None
        self._held = _held_memory(self.whole_size + LINE) if holds else None
        return self

    def binding(self, data: int, pool: int) -> np.ndarray:
        """Return a record for arrays whose addresses are at offset `data` of other objects, and for the thread pool at
        an address, or one thread if that is 0.
        """
        found = self._binding.copy()
        found["data"], found["pool"] = data, pool
        return found

    def _written(self, arrays: Sequence[np.ndarray], place: int) -> int:
        """Write the descriptor for a call's arrays behind the workspace at `place`; return its address."""
        at = place + self.workspace
        given = addresses(arrays)
        given[: self._blocks] = [lines(block) for block in given[: self._blocks]]
        descriptor = self.bind(place, given)
        ctypes.memmove(at, address(descriptor), descriptor.nbytes)
        return at

    def run_alone(self, arrays: Sequence[np.ndarray]) -> None:
        """Run the job on this thread, on a call's arrays."""
        if self._held is not None and READABLE:
            self._enter((self._binding, self._held, *arrays))
        else:
            self._run(arrays, self.task.run_alone)

    def run_shared(self, arrays: Sequence[np.ndarray]) -> None:
        """Run the job on the thread pool, on a call's arrays."""
        used = pool()
        if used is not self._pool:  # after a fork, it is another one
            self._binding["pool"], self._pool = used.address, used  # in this order: another thread may look in between
        self._run(arrays, self.task.run_shared)

    def _run(self, arrays: Sequence[np.ndarray], run: Callable[[int], None]) -> None:
        """Bind the descriptor to a call's arrays, and run the job; `run` does so where objects are not readable."""
        workspace = take_workspace(self.whole_size)
        try:
            if READABLE:
                self._enter((self._binding, workspace.buffer, *arrays))
            else:
                run(self._written(arrays, workspace.address))
        finally:
            give_back_workspace(workspace)

    def bind(self, place: int, addresses: Sequence[int]) -> np.ndarray:
        """Return the descriptor for a call's arrays at `addresses` and a workspace at address `place`."""
        bases = (0, place, *addresses)
        return self._offsets + np.array(bases, np.int64).take(self._base_of)


def _append(integers: list[int], dtype: np.dtype, records: Sequence[Fields]) -> int:
    """Append records, then the lists in their fields; return the index of the first record."""
    names, first = dtype.names or (), len(integers)
    integers += [0] * (len(names) * len(records))
    for i, record in enumerate(records):
        at = first + i * len(names)
        for name, value in record.items():
            if isinstance(value, list):
                integers[at + names.index(f"n_{name}")] = len(value)
                value = 8 * (_append(integers, fields.LISTS[name], value) - at)
            integers[at + names.index(name)] = value
    return first
