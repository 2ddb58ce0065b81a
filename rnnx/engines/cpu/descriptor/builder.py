"""Descriptor templates, built once per shape and bound to the arrays of each call. See `fields` for their content.

A template encodes an address as base * 2^48 + offset, where a *base* is an array of a later call, so offsets can be
added. Known values, such as counts and the addresses of functions, have base 0.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.engines.cpu.codegen.copy import emit_copies
from rnnx.engines.cpu.codegen.gemm import emit_product, n_vectors, panel_vectors
from rnnx.engines.cpu.codegen.ir import lanes
from rnnx.engines.cpu.codegen.leaves import KERNEL_HEADER
from rnnx.engines.cpu.descriptor import fields
from rnnx.engines.cpu.descriptor.layout import address, addresses, lines
from rnnx.engines.cpu.runtime import object_cache, thread_pool
from rnnx.engines.cpu.runtime.buffer_pool import LINE, workspace
from rnnx.engines.cpu.runtime.thread_pool import Work

MOST_PASSES = 256  # cached, of each kind
_SHIFT = 48
_WORKSPACE, _BARRIER = 1 << _SHIFT, 2 << _SHIFT

Fields = dict[str, Any]  # of a record: integers, or lists of other records' fields


@lru_cache(maxsize=16)
def product(dtype: np.dtype, nv: int) -> int:
    """Return the address of the product for micro-panels of `nv` vectors."""
    return object_cache.functions(lambda module: emit_product(module, dtype, nv))[f"product_{nv}"]


@lru_cache(maxsize=4)
def copies(dtype: np.dtype) -> Mapping[str, int]:
    """Return the addresses of the functions in `codegen.copy`."""
    return object_cache.functions(lambda module: emit_copies(module, dtype))


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
    indices: bool = False  # whether inputs are indices of one-hot columns


class Template:
    """A descriptor without addresses.

    Parameters
    ----------
    job : str
        "forward" or "backward".
    dtype : numpy.dtype
    shape : Shape
    threads : int
    unit_parallel : bool
        Whether threads share the units rather than the examples.
    """

    def __init__(self, job: str, dtype: np.dtype, shape: Shape, threads: int, unit_parallel: bool) -> None:
        self.job, self.native = job, _jobs()[job]
        self.dtype, self.threads = dtype, threads
        self.n_steps, self.m, self.n, self.n_x, self.indices = shape
        self.lanes, self.item = lanes(dtype), dtype.itemsize
        self.size = self.lanes * self.item  # of a vector
        self.row = self.n * self.item  # of a state
        self.step = self.m * self.row
        self.rows = self.m if unit_parallel else -(-self.m // threads)  # examples per thread, at most
        self.workspace = 0
        self._bases: list[str] = []
        # A row of zeros. Sizes are rounded up, so that few are cached.
        self._zeros = _zeros(1 << (max(self.n, self.n_x) * self.item + 2 * LINE).bit_length())
        self.fields: Fields = {**shape._asdict(), **copies(dtype), "zeros": address(self._zeros)}
        self.fields |= {"item": self.item, "lanes": self.lanes, "unit_parallel": unit_parallel, "pack": 1, "chunk": 1}
        self.fields |= {"barrier": _BARRIER, "yield_function": thread_pool.system_functions()["yield"]}
        self.fields |= {"nv": panel_vectors(1), "product": product(dtype, panel_vectors(1))}

    def base(self, name: str) -> int:
        """Return the encoded address of an array of the call."""
        self._bases.append(name)
        return (len(self._bases) << _SHIFT) + _BARRIER

    def take(self, *shape: int) -> int:
        """Allocate an array in the workspace; return its encoded address."""
        at, self.workspace = self.workspace, self.workspace + lines(math.prod(shape) * self.item)
        return _WORKSPACE + at

    def vectors(self, columns: int) -> int:
        """Return the number of vectors needed for `columns` columns."""
        return n_vectors(self.dtype, columns)

    def scratch(self, **sizes: int) -> None:
        """Lay out a thread's scratch memory: the kernel arguments, then named parts of given sizes in bytes."""
        most = max(len(stage["arguments"]) for stage in self.fields["stages"])
        at = 0
        for name, size in {"kernel_arguments": KERNEL_HEADER.itemsize + 8 * most, **sizes}.items():
            self.fields[name] = at
            at += lines(size)
        self.fields |= {"scratch": _WORKSPACE + self.workspace, "scratch_size": at}
        self.workspace += at * self.threads

    def finish(self) -> "Template":
        """Lay out the records, after which nothing can be added."""
        integers: list[int] = []
        _append(integers, fields.PASS, [self.fields])
        values = np.array(integers, np.int64)
        self._base_of = np.where(values < 0, 0, values >> _SHIFT)  # a stride may be negative
        self._offsets = values - (self._base_of << _SHIFT)
        return self

    def bind(self, place: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the descriptor for the arrays of a call and a workspace at address `place`."""
        barrier = thread_pool.pool().barrier if self.threads > 1 else 0
        bases = (0, place, barrier, *addresses([arrays[name] for name in self._bases]))
        return self._offsets + np.array(bases, np.int64)[self._base_of]


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


def set_field(descriptor: np.ndarray, name: str, value: int) -> None:
    """Set a field of the PASS record of a descriptor."""
    descriptor[(fields.PASS.names or ()).index(name)] = value


class Pass:
    """A pass for given shapes, with one descriptor template per way to share it among threads."""

    def __init__(self, cell: Cell, dtype: np.dtype, shape: Shape) -> None:
        self.cell, self.dtype, self.shape = cell, dtype, shape
        n_steps, m, n, n_x, indices = shape
        products = (
            n_steps * m * n * (n if indices else n + n_x) * len(cell.gates)
        )  # forward; backward has twice as many
        shares = -(-n_vectors(dtype, n) // fields.UNIT_VECTORS)
        arrays = 2 * len(cell.states) + len(cell.saved) + len(cell.gates)
        self.work = Work(n_steps, m, products, shares, arrays if n * dtype.itemsize % LINE else 0)
        self._templates: dict[tuple[int, bool], Template] = {}

    def build(self, threads: int, unit_parallel: bool) -> Template:
        """Build the descriptor template."""
        raise NotImplementedError

    def template(self, threads: int, unit_parallel: bool) -> Template:
        """Return the cached descriptor template."""
        key = (threads, unit_parallel)
        if key not in self._templates:
            self._templates[key] = self.build(threads, unit_parallel)
        return self._templates[key]

    def run(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Run the job on the arrays of a call."""
        threads, unit_parallel = thread_pool.policy.get().split(self.work)
        pool, held = None, False
        try:
            if threads > 1:
                pool = thread_pool.pool()
                held = pool.acquire(threads, self.work.alone_ns)
            template = self.template(threads, unit_parallel) if held else self.template(1, False)
            with workspace(template.workspace) as place:
                descriptor = template.bind(place, arrays)
                if pool is None or not held:
                    template.native(0, 1, address(descriptor))
                else:
                    pool.run(template.native, threads, address(descriptor))
        finally:
            if pool is not None and held:
                pool.release()
