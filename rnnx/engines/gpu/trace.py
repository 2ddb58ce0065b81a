"""Symbolic tracing of a cell's functions into CUDA code."""

import math
from collections.abc import Iterable
from functools import lru_cache, partial, partialmethod
from typing import Any, TypeAlias, Union

from rnnx.cells.vocabulary import Condition, Ops, check_operands, value_of
from rnnx.cells.wiring import StageWiring

ZERO = "real(0)"  # the result of zeros_like
MEAN = "mean"  # `means` computes what is declared as mean(...)


Operand: TypeAlias = Union["Symbol", float]


class Symbol:
    """A variable or a constant of the kernel."""

    __array_ufunc__ = None  # makes NumPy functions raise

    def __init__(self, trace: "Trace", name: str) -> None:
        self._trace, self.name = trace, name

    @property
    def is_constant(self) -> bool:
        """Whether it is a number."""
        return not self.name.isidentifier()

    def _binary(self, other: Operand, operation: str) -> "Symbol":
        if not isinstance(other, Symbol | int | float):
            return NotImplemented
        return self._trace.let(f"{self.name} {operation} {operand(other)}")

    def _flipped(self, other: float, operation: str) -> "Symbol":
        if not isinstance(other, int | float):
            return NotImplemented
        return self._trace.let(f"{operand(other)} {operation} {self.name}")

    __add__, __radd__ = partialmethod(_binary, operation="+"), partialmethod(_flipped, operation="+")
    __sub__, __rsub__ = partialmethod(_binary, operation="-"), partialmethod(_flipped, operation="-")
    __mul__, __rmul__ = partialmethod(_binary, operation="*"), partialmethod(_flipped, operation="*")
    __truediv__, __rtruediv__ = partialmethod(_binary, operation="/"), partialmethod(_flipped, operation="/")

    def __neg__(self) -> "Symbol":
        return self._trace.let(f"-{self.name}")

    def __abs__(self) -> "Symbol":
        return self._trace.let(f"op_abs({self.name})")

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a value: it is unknown when the kernel is generated")


def operand(value: Operand) -> str:
    """Return an operand as CUDA. A number becomes `real`, rounded once from a literal with all digits of a double."""
    if isinstance(value, Symbol):
        return value.name
    number = float(value)
    if number == 0 and math.copysign(1, number) == 1:
        return ZERO
    if math.isnan(number):
        return 'real(nanf(""))'
    if math.isinf(number):
        return f"(real({math.copysign(1, number)}) / {ZERO})"
    return f"real({number!r})"


class Trace:
    """Traced operations as lines of CUDA. Equal expressions share a variable."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._variables: dict[str, str] = {}

    def let(self, expression: str) -> Symbol:
        """Return the variable that holds an expression."""
        return Symbol(self, self._declare("real", expression))

    def _declare(self, kind: str, expression: str) -> str:
        if expression not in self._variables:
            name = f"v{len(self._variables)}"
            self.lines.append(f"const {kind} {name} = {expression};")
            self._variables[expression] = name
        return self._variables[expression]

    def symbols(self, prefix: str, count: int) -> tuple[Symbol, ...]:
        """Return variables declared by the kernel: prefix0, prefix1, ..."""
        return tuple(Symbol(self, f"{prefix}{k}") for k in range(count))

    def ops(self) -> Ops:
        """Return the cell vocabulary on symbols."""
        others: dict[str, Any] = {
            "zeros_like": lambda x: Symbol(self, ZERO),
            "constant": lambda value, like: Symbol(self, operand(value)),
            "greater": self._greater,
            "where": self._where,
            "mean": self._mean,
        }
        return Ops(**{name: others.get(name) or partial(self._apply, name) for name in Ops._fields})

    def _apply(self, name: str, *operands: Operand) -> Symbol:
        check_operands(*operands)
        return self.let(f"op_{name}({', '.join(map(operand, operands))})")

    def _greater(self, a: Operand, b: Operand) -> Condition:
        check_operands(a, b)
        return Condition(self._declare("bool", f"{operand(a)} > {operand(b)}"))

    def _where(self, condition: Condition, a: Operand, b: Operand) -> Symbol:
        check_operands(a, b)
        return self.let(f"{value_of(condition)} ? {operand(a)} : {operand(b)}")

    def _mean(self, x: Operand) -> Symbol:
        check_operands(x)
        assert isinstance(x, Symbol)
        return x if x.is_constant else self.let(f"{MEAN}({x.name})")

    @property
    def has_means(self) -> bool:
        """Whether a value depends on other units."""
        return any(expression.startswith(f"{MEAN}(") for expression in self._variables)


def trace_forward(stage: StageWiring) -> tuple[Trace, list[str], list[str]]:
    """Trace the forward function on zx0.., zh0.., p0.. (reads) and g0.. (vectors and extra inputs).

    Return the variables it writes and saves.
    """
    trace = Trace()
    counts = {"zx": stage.n_zx, "zh": stage.n_zh, "p": len(stage.reads), "g": len(stage.vectors + stage.inputs)}
    writes, saves = stage.forward(trace.ops(), *(trace.symbols(*item) for item in counts.items()))
    return trace, _names(writes), _names(saves)


@lru_cache(maxsize=256)
def trace_backward(stage: StageWiring) -> tuple[Trace, dict[str, list[str]], list[str], list[str]]:
    """Trace the backward function on d0.. (cotangents), p0.. (reads), q0.. (writes), k0.. (saves) and g0.. (given).

    Return the variables of the rows of dzx and, unless the stage is additive, dzh; and those of the cotangents of the
    reads and of the extra inputs.
    """
    trace = Trace()
    counts = {"d": len(stage.writes), "p": len(stage.reads), "q": len(stage.writes), "k": len(stage.saves)}
    counts["g"] = len(stage.vectors + stage.inputs)
    rows, d_reads, d_inputs = stage.backward(trace.ops(), *(trace.symbols(*item) for item in counts.items()))
    return trace, {side: _names(row) for side, row in rows.items()}, _names(d_reads), _names(d_inputs)


def _names(symbols: Iterable[Symbol]) -> list[str]:
    return [symbol.name for symbol in symbols]
