"""Symbolic tracing of a cell's functions into CUDA code."""

from collections.abc import Iterable
from functools import lru_cache, partial, partialmethod

from rnnx.cells.vocabulary import Ops
from rnnx.cells.wiring import StageWiring

ZERO = "real(0)"  # the result of zeros_like


class Symbol:
    """A variable of the kernel."""

    __array_ufunc__ = None  # makes NumPy functions raise

    def __init__(self, trace: "Trace", name: str) -> None:
        self._trace, self.name = trace, name

    def _binary(self, other: "Symbol", operation: str) -> "Symbol":
        if not isinstance(other, Symbol):
            return NotImplemented
        return self._trace.let(f"{self.name} {operation} {other.name}")

    __add__ = partialmethod(_binary, operation="+")
    __sub__ = partialmethod(_binary, operation="-")
    __mul__ = partialmethod(_binary, operation="*")

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a value: it is unknown when the kernel is generated")


class Trace:
    """Traced operations as lines of CUDA. Equal expressions share a variable."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._variables: dict[str, Symbol] = {}

    def let(self, expression: str) -> Symbol:
        """Return the variable that holds an expression."""
        if expression not in self._variables:
            name = f"v{len(self._variables)}"
            self.lines.append(f"const real {name} = {expression};")
            self._variables[expression] = Symbol(self, name)
        return self._variables[expression]

    def symbols(self, prefix: str, count: int) -> tuple[Symbol, ...]:
        """Return variables declared by the kernel: prefix0, prefix1, ..."""
        return tuple(Symbol(self, f"{prefix}{k}") for k in range(count))

    def ops(self) -> Ops:
        """Return the cell vocabulary on symbols."""
        named = {name: partial(self._apply, name) for name in Ops._fields if name != "zeros_like"}
        return Ops(**named, zeros_like=lambda x: Symbol(self, ZERO))

    def _apply(self, name: str, x: Symbol) -> Symbol:
        return self.let(f"op_{name}({x.name})")


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
