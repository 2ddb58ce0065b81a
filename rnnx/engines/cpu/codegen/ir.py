"""A small emitter of LLVM IR: functions of 64-bit integers (counts, addresses, strides in bytes), loops, vectors."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from llvmlite import binding, ir

I64, I32, I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)


@dataclass(frozen=True)
class Machine:
    """Bytes of a vector, and number of vector registers."""

    vector_bytes: int
    registers: int


@lru_cache(maxsize=1)
def features() -> Any:
    """Return the features of this CPU, a dictionary with a method `flatten`."""
    try:
        return binding.get_host_cpu_features()
    except RuntimeError:  # not available on this platform
        return binding.FeatureMap()


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Return LLVM's name of this CPU."""
    return str(binding.get_host_cpu_name())


@lru_cache(maxsize=1)
def machine() -> Machine:
    """Return the properties of this CPU, or a safe minimum for an unknown one."""
    if features().get("avx512f"):
        return Machine(64, 32)
    if features().get("avx"):
        return Machine(32, 16)
    return Machine(16, 32 if binding.get_process_triple().startswith(("aarch64", "arm64")) else 16)


def lanes(dtype: Any) -> int:
    """Return the number of lanes of a vector."""
    return int(machine().vector_bytes // np.dtype(dtype).itemsize)


class Function:
    """A function under construction."""

    def __init__(
        self,
        module: ir.Module,
        name: str,
        arguments: Sequence[str],
        dtype: Any,
        *,
        public: bool = False,
        returns: ir.Type | None = None,
    ) -> None:
        self.itemsize, self.lanes = np.dtype(dtype).itemsize, lanes(dtype)
        self.real = ir.FloatType() if self.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.real, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
        self.module = module
        self.parts = 1  # vectors of the CPU in one of this function
        self.contracts = True  # whether a product and a sum may become a fused multiply-add
        self.ir = ir.Function(module, ir.FunctionType(returns or ir.VoidType(), [I64] * len(arguments)), name)
        if not public:
            self.ir.linkage = "internal"
            self.ir.attributes.add("noinline")  # inlining would spill its registers
        self.build = ir.IRBuilder(self.ir.append_basic_block("entry"))
        for argument, given in zip(self.ir.args, arguments, strict=True):
            argument.name = given
        self.arguments = SimpleNamespace(**dict(zip(arguments, self.ir.args, strict=True)))  # all 64-bit integers

    def end(self, value: ir.Value | None = None) -> "Function":
        """Emit the return instruction."""
        self.build.ret_void() if value is None else self.build.ret(value)
        return self

    def widened(self) -> "Function":
        """Return this function as one that computes in float64, with as many lanes per vector."""
        wide = copy.copy(self)
        wide.itemsize, wide.real = 8, ir.DoubleType()
        wide.vector = ir.VectorType(wide.real, wide.lanes)
        return wide

    def of_lanes(self, lanes: int) -> "Function":
        """Return this function with so many lanes per vector."""
        other = copy.copy(self)
        other.parts, other.lanes = 1, lanes
        other.vector, other.mask = (ir.VectorType(kind, lanes) for kind in (self.real, I1))
        return other

    def of_parts(self, parts: int) -> "Function":
        """Return this function with vectors of so many of the CPU's, whose instructions alternate."""
        other = self.of_lanes(self.lanes // self.parts * parts)
        other.parts = parts
        return other

    def joined(self, vectors: Sequence[ir.Value]) -> ir.Value:
        """Return the vector of all lanes of a power of two of vectors."""
        while len(vectors) > 1:
            count = 2 * vectors[0].type.count
            every = integers(I32, *range(count))
            vectors = [self.build.shuffle_vector(a, b, every) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        return vectors[0]

    def part(self, vector: ir.Value, i: int) -> ir.Value:
        """Return part i of a vector, of as many lanes as a vector of this function."""
        if vector.type.count == self.lanes:
            return vector
        lanes = integers(I32, *range(i * self.lanes, (i + 1) * self.lanes))
        return self.build.shuffle_vector(vector, vector, lanes)

    def sum(self, *terms: Any) -> ir.Value:
        """Add integers, each an IR value or a Python int."""
        total, constant = None, 0
        for term in terms:
            if isinstance(term, int):
                constant += term
            else:
                total = term if total is None else self.build.add(total, term)
        if total is None:
            return I64(constant)
        return self.build.add(total, I64(constant)) if constant else total

    def times(self, a: ir.Value, b: Any) -> ir.Value:
        """Multiply two integers."""
        return self.build.mul(a, I64(b) if isinstance(b, int) else b)

    def less(self, a: ir.Value, b: Any) -> ir.Value:
        """Compare signed integers, a < b."""
        return self.build.icmp_signed("<", a, I64(b) if isinstance(b, int) else b)

    @contextlib.contextmanager
    def loop(
        self, stop: ir.Value, start: Any = 0, step: int = 1, carried: list[ir.Value] | None = None
    ) -> Iterator[ir.Value]:
        """Emit ``for i in range(start, stop, step)`` around the ``with`` block.

        `carried` are values that the block may replace in the list: they pass from iteration to iteration.
        """
        carried = [] if carried is None else carried
        head, body, after = (self.ir.append_basic_block(name) for name in ("head", "body", "after"))
        before = self.build.block
        self.build.branch(head)
        self.build.position_at_end(head)
        i = self.build.phi(I64)
        i.add_incoming(I64(start) if isinstance(start, int) else start, before)
        phis = [self.build.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        carried[:] = phis
        self.build.cbranch(self.less(i, stop), body, after)
        self.build.position_at_end(body)
        yield i
        i.add_incoming(self.build.add(i, I64(step)), self.build.block)
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, self.build.block)
        carried[:] = phis
        self.build.branch(head)
        self.build.position_at_end(after)

    def least(self, limit: int, value: ir.Value) -> ir.Value:
        """Return the minimum of two integers."""
        return self.build.select(self.less(value, limit), value, I64(limit))

    def dispatch(self, number: ir.Value, functions: dict[int, "Function"], **arguments: ir.Value) -> None:
        """Emit a call of one of these functions of the module, by number; no call for any other number."""
        done = self.ir.append_basic_block("done")
        switch = self.build.switch(number, done)
        for case, function in functions.items():
            block = self.ir.append_basic_block(f"case_{case}")
            switch.add_case(I64(case), block)
            self.build.position_at_end(block)
            self.build.call(function.ir, [arguments[argument.name] for argument in function.ir.args])
            self.build.branch(done)
        self.build.position_at_end(done)

    def call_compiled(self, address: ir.Value, *integers: ir.Value) -> None:
        """Call a function of integers compiled by Numba."""
        # Its calling convention begins with pointers for a result and an exception; jobs set neither.
        nothing = self.build.alloca(I64, 4)
        kind = ir.FunctionType(I32, [nothing.type, nothing.type, *[I64] * len(integers)])
        self.build.call(self.pointer(address, kind), [nothing, nothing, *integers])

    def pointer(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        """Convert an address to a pointer."""
        return self.build.inttoptr(address, kind.as_pointer())

    def load(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        """Load a 64-bit integer, a number or a vector, aligned to the size of its elements."""
        loaded = self.build.load(self.pointer(address, kind))
        loaded.align = 8 if kind == I64 else self.itemsize
        return loaded

    def prefetch(self, address: ir.Value) -> None:
        """Emit a prefetch of a cache line to the L2 cache, from any address."""
        byte = ir.IntType(8).as_pointer()
        function = declare(self.module, "llvm.prefetch.p0", ir.VoidType(), [byte, I32, I32, I32])
        self.build.call(function, [self.pointer(address, byte.pointee), I32(0), I32(2), I32(1)])

    def load_vector(self, address: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """Load a vector; lanes outside the mask are not accessed and read as zero."""
        if mask is None:
            return self.load(address, self.vector)
        pointer = self.pointer(address, self.vector)
        function = self._masked("load", self.vector, [pointer.type, I32, self.mask, self.vector])
        return self.build.call(function, [pointer, I32(self.itemsize), mask, self.constant(0)])

    def store_vector(self, value: ir.Value, address: ir.Value, mask: ir.Value | None = None) -> None:
        """Store a vector; lanes outside the mask are not accessed."""
        pointer = self.pointer(address, self.vector)
        if mask is None:
            self.build.store(value, pointer).align = self.itemsize
            return
        function = self._masked("store", ir.VoidType(), [self.vector, pointer.type, I32, self.mask])
        self.build.call(function, [value, pointer, I32(self.itemsize), mask])

    def _masked(self, what: str, returns: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self.itemsize}.p0"
        return declare(self.module, name, returns, arguments)

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """Return the mask of the first `count` lanes."""
        return self.build.icmp_signed("<", integers(I64, *range(self.lanes)), self.spread(count, I64))

    def constant(self, value: Any) -> ir.Constant:
        """Return a constant with the same number in every lane."""
        return _splat(self.real, self.lanes, float(value).hex())

    def spread(self, value: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        """Broadcast a value to all lanes."""
        kind = ir.VectorType(kind or self.real, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.build.insert_element(undefined, value, I32(0))
        return self.build.shuffle_vector(first, undefined, integers(I32, *[0] * self.lanes))

    @property
    def has_avx512(self) -> bool:
        """Whether the CPU has instructions that multiply vectors by powers of two and estimate reciprocals."""
        return self.lanes * self.itemsize == 64 * self.parts and bool(features().get("avx512f"))

    def intrinsic(self, name: str, *arguments: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic on vectors."""
        full = f"llvm.{name}.v{self.lanes}f{8 * self.itemsize}"
        return self.build.call(declare(self.module, full, self.vector, [a.type for a in arguments]), arguments)


@lru_cache(maxsize=1024)
def _splat(kind: ir.Type, lanes: int, value: str) -> ir.Constant:
    """Return the constant of a number in hexadecimal, in every lane. It is one object, whose text is written once."""
    return ir.Constant(ir.VectorType(kind, lanes), [ir.Constant(kind, float.fromhex(value))] * lanes)


@lru_cache(maxsize=256)
def integers(kind: ir.Type, *values: int) -> ir.Constant:
    """Return the constant vector of some integers, one object like `_splat`."""
    return ir.Constant(ir.VectorType(kind, len(values)), list(values))


def declare(module: ir.Module, name: str, returns: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """Declare an LLVM intrinsic."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(returns, arguments), name)
