"""Symbolic vectors with Python's operators, which emit code."""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from rnnx.cells.vocabulary import Condition, check_operands, value_of
from rnnx.engines.cpu.codegen.ir import I32, Function, declare, integers


def _operator(operation: str, *, flip: bool = False, contract: bool = True) -> Callable[["Vector", Any], "Vector"]:
    """Return an operator that emits LLVM's `operation`, "f" + `operation` on floats; `flip` swaps operands."""

    def apply(self: "Vector", other: Any) -> "Vector":
        operands = (self._lift(other), self.value) if flip else (self.value, self._lift(other))
        build = self.function.build
        if self.is_integer:
            return Vector(self.function, getattr(build, operation)(*operands))
        flags = ("contract",) * (contract and self.function.contracts)
        return Vector(self.function, getattr(build, "f" + operation)(*operands, flags=flags))

    return apply


class Vector:
    """A vector in a function under construction.

    Sums and products may be contracted to fused multiply-adds, but are never reordered.
    """

    __array_ufunc__ = None  # makes NumPy functions raise

    def __init__(self, function: Function, value: ir.Value) -> None:
        self.function, self.value = function, value
        self.is_integer = isinstance(value.type.element, ir.IntType)

    def _lift(self, other: Any) -> ir.Value:
        if isinstance(other, Vector):
            return other.value
        kind = self.value.type
        return integers(kind.element, *[int(other)] * kind.count) if self.is_integer else self.function.constant(other)

    __add__, __radd__ = _operator("add"), _operator("add", flip=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", flip=True)
    __mul__ = __rmul__ = _operator("mul")
    __truediv__, __rtruediv__ = _operator("div", contract=False), _operator("div", contract=False, flip=True)
    __lshift__, __rshift__ = _operator("shl"), _operator("ashr")  # of integers
    __and__, __xor__ = _operator("and_"), _operator("xor")

    def __neg__(self) -> "Vector":
        return Vector(self.function, self.function.build.fneg(self.value))

    def where(self, comparison: str, limit: Any, then: Any, otherwise: Any) -> "Vector":
        """Select `then` where ``self <comparison> limit``, else `otherwise`; NaN compares as false."""
        compare = self.function.build.icmp_signed if self.is_integer else self.function.build.fcmp_ordered
        condition = compare(comparison, self.value, self._lift(limit))
        return Vector(self.function, self.function.build.select(condition, self._lift(then), self._lift(otherwise)))

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a value: it is unknown when the kernel is generated")

    def as_integer(self) -> "Vector":
        """Reinterpret the bits as integers."""
        kind = ir.VectorType(ir.IntType(8 * self.function.itemsize), self.function.lanes)
        return Vector(self.function, self.function.build.bitcast(self.value, kind))

    def as_real(self) -> "Vector":
        """Reinterpret the bits as floating-point numbers."""
        return Vector(self.function, self.function.build.bitcast(self.value, self.function.vector))

    def __abs__(self) -> "Vector":
        return Vector(self.function, self.function.intrinsic("fabs", self.value))

    def sqrt(self) -> "Vector":
        """Return the square root, rounded correctly."""
        return Vector(self.function, self.function.intrinsic("sqrt", self.value))

    def widened(self) -> "Vector":
        """Convert float32 to float64."""
        wide = self.function.widened()
        return Vector(wide, wide.build.fpext(self.value, wide.vector))

    def narrowed(self, function: Function) -> "Vector":
        """Round float64 to float32, the numbers of a function."""
        return Vector(function, function.build.fptrunc(self.value, function.vector))

    def scale(self, n: "Vector") -> "Vector":
        """Multiply by 2^n, for integral n of any magnitude, with AVX-512."""
        return self._of_avx512("mask.scalef", (self, n, self), rounding=True)

    def estimated_reciprocal(self) -> "Vector":
        """Return 1 / x of normal numbers with a relative error below 2^-14, with AVX-512."""
        return self._of_avx512("rcp14", (self, self))

    def _of_avx512(self, name: str, operands: Sequence["Vector"], *, rounding: bool = False) -> "Vector":
        """Call an intrinsic on the operands, a mask of all lanes and, if asked for, the current rounding mode."""
        f = self.function
        every, as_set = ir.Constant(ir.IntType(f.lanes // f.parts), -1), [I32(4)] if rounding else []
        full, results, one = f"llvm.x86.avx512.{name}.{'ps' if f.itemsize == 4 else 'pd'}.512", [], f.of_parts(1)
        for i in range(f.parts):
            arguments = [*[one.part(a.value, i) for a in operands], every, *as_set]
            function = declare(f.module, full, arguments[0].type, [a.type for a in arguments])
            results.append(f.build.call(function, arguments))
        return Vector(f, f.joined(results))

    def copysign(self, sign: "Vector") -> "Vector":
        """Combine this vector's magnitudes with the signs of another."""
        return Vector(self.function, self.function.intrinsic("copysign", self.value, sign.value))


def lifted(a: Any, b: Any) -> tuple[Vector, Vector]:
    """Return two operands as vectors; one may be a number."""
    check_operands(a, b)
    function = next(x.function for x in (a, b) if isinstance(x, Vector))
    a, b = (x if isinstance(x, Vector) else Vector(function, function.constant(x)) for x in (a, b))
    return a, b


def greater(a: Any, b: Any) -> Condition:
    """Compare two operands; NaN compares as false."""
    a, b = lifted(a, b)
    return Condition(a.function.build.fcmp_ordered(">", a.value, b.value))


def select(condition: Condition, a: Any, b: Any) -> Vector:
    """Return a where a condition holds, else b."""
    a, b = lifted(a, b)
    return Vector(a.function, a.function.build.select(value_of(condition), a.value, b.value))


def across(f: Function, total: ir.Value, join: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Join the lanes of a vector, and return the result in all lanes."""
    distance = f.lanes // 2
    while distance:
        order = [(lane + distance) % f.lanes for lane in range(f.lanes)]
        total = join(total, f.build.shuffle_vector(total, total, integers(I32, *order)))
        distance //= 2
    return total


def horner(coefficients: Sequence[Any], x: Vector) -> Vector:
    """Return c[0] + c[1] x + c[2] x^2 + ..., as `rnnx.cells.gaussian.horner` does, of which no code may depend."""
    *others, second, first = coefficients
    total = x * first + second
    for c in reversed(others):
        total = total * x + c
    return total
