"""The CUDA source of a cell's kernels: its own functions, run once on symbols that write down what is done to them.

A kernel does one stage of one time step, one element of the state a thread. The frame around the mathematics, loads
and stores in the order of the cell's record, is the same for every cell. What the frames stand on is in
``cuda/prelude.cuh``; kernels that know no cell are in ``cuda/layout.cu``.

Dimensions: m examples, n units; j an example, u a unit, e = j n + u; t the time step.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.vocabulary import Ops

THREADS = 128  # of a block of a stage's kernels
PACK_JOBS = 16  # matrices that one launch of `pack` takes

# Storage of a dtype in memory -> what it is computed in.
_TYPES = {
    "float32": ("float", "float"),
    "float64": ("double", "double"),
    "float16": ("half_bits", "float"),
    "bfloat16": ("bfloat16_bits", "float"),
}


def options(dtype: np.dtype) -> tuple[str, ...]:
    """The compiler's options for arrays of a dtype."""
    storage, real = _TYPES[dtype.name]
    return (f"-DRNNX_STORAGE={storage}", f"-DRNNX_REAL={real}", "-std=c++17")


def real_dtype(dtype: np.dtype) -> np.dtype:
    """What arrays of a dtype are computed and accumulated in."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


@lru_cache(maxsize=64)
def sources(cell: Cell) -> tuple[str, str]:
    """All kernels that sequences of a cell need: those of any cell, and its own."""
    kernels = [kernel for i in range(len(cell.stages)) for kernel in (_forward(cell, i), _backward(cell, i))]
    common = "\n".join([read("prelude.cuh"), read("layout.cu"), _pack()])
    return common, "\n".join([read("prelude.cuh"), *kernels])


def kernel_names(text: str) -> list[str]:
    """The names of the kernels of a source."""
    return re.findall(r'extern "C" __global__ void (?:__\w+\([^)]*\) )*(\w+)\(', text)


@lru_cache(maxsize=8)
def read(name: str) -> str:
    """A file of the folder ``cuda``."""
    return (Path(__file__).parent / "kernels" / name).read_text(encoding="utf-8")


# --- symbols ------------------------------------------------------------------------------------------------------


class Symbol:
    """A number in a kernel that is being written."""

    __array_ufunc__ = None  # not for NumPy's functions

    def __init__(self, trace: "Trace", name: str) -> None:
        self._trace, self.name = trace, name

    def _binary(self, operation: str, other: "Symbol") -> "Symbol":
        if not isinstance(other, Symbol):
            return NotImplemented
        return self._trace.let(f"{self.name} {operation} {other.name}")

    def __add__(self, other: "Symbol") -> "Symbol":
        return self._binary("+", other)

    def __sub__(self, other: "Symbol") -> "Symbol":
        return self._binary("-", other)

    def __mul__(self, other: "Symbol") -> "Symbol":
        return self._binary("*", other)

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a value: it is not known when the kernel is written")


class Trace:
    """What was done to symbols, as lines of C++; the same thing done twice is one line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._known: dict[str, Symbol] = {}
        self._zero = Symbol(self, "real(0)")

    def let(self, expression: str) -> Symbol:
        """The symbol of an expression."""
        if expression not in self._known:
            name = f"v{len(self._known)}"
            self.lines.append(f"const real {name} = {expression};")
            self._known[expression] = Symbol(self, name)
        return self._known[expression]

    def symbols(self, names: Iterable[str]) -> tuple[Symbol, ...]:
        """Numbers that the frame has under these names."""
        return tuple(Symbol(self, name) for name in names)

    def is_zero(self, symbol: Symbol) -> bool:
        """Whether it is zero whatever the inputs are."""
        return symbol is self._zero

    def ops(self) -> Ops:
        """The vocabulary of a cell."""

        def function(name: str) -> Callable[[Symbol], Symbol]:
            return lambda x: self.let(f"op_{name}({x.name})")

        named = {name: function(name) for name in Ops._fields if name != "zeros_like"}
        return Ops(**named, zeros_like=lambda x: self._zero)


# --- frames -------------------------------------------------------------------------------------------------------


def trace_forward(cell: Cell, i: int) -> tuple[Trace, list[Symbol], list[Symbol]]:
    """Stage i on symbols zx0.., zh0.., p0..: what is done, the states that leave it, and what it saves."""
    stage, trace = cell.stages[i], Trace()
    gates = range(len(stage.gates))
    zx, zh = (trace.symbols(f"{z}{g}" for g in gates) for z in ("zx", "zh"))
    leaving, saved = stage.forward(trace.ops(), zx, zh, trace.symbols(f"p{k}" for k in range(len(cell.entering(i)))))
    return trace, list(leaving), list(saved)


def trace_backward(cell: Cell, i: int) -> tuple[Trace, list[Symbol], list[Symbol], list[Symbol]]:
    """Stage i on symbols d0.., p0.., q0.., k0..: what is done, dzx, dzh and the cotangents of what enters it."""
    stage, trace = cell.stages[i], Trace()
    d, p, q, k = (
        trace.symbols(f"{letter}{index}" for index in range(count))
        for letter, count in (
            ("d", len(stage.out)),
            ("p", len(cell.entering(i))),
            ("q", len(stage.out)),
            ("k", len(stage.saved)),
        )
    )
    dzx, dzh, dp = stage.backward(trace.ops(), d, p, q, k)
    return trace, list(dzx), list(dzh), list(dp)


@lru_cache(maxsize=256)
def carries_over(cell: Cell, i: int) -> bool:
    """Whether the cotangent of the operand of stage i has a part that does not go through its recurrent weights."""
    trace, _, _, dp = trace_backward(cell, i)
    return not trace.is_zero(dp[0])


def kernel(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    """A kernel of these arguments and lines."""
    body = "\n".join(f"  {line}" for line in lines)
    return f'extern "C" __global__ void {name}(\n    {", ".join(arguments)}) {{\n{body}\n}}\n'


_ELEMENT = (
    "const unsigned e = blockIdx.x * blockDim.x + threadIdx.x;",
    "if (e >= m * n) return;",
    "const unsigned j = e / (unsigned)n, u = e - j * (unsigned)n;",
)


def _forward(cell: Cell, i: int) -> str:
    """The kernel ``forward_i``.

    The input side is row j of `zx` (of row length `row`), or row index[j] of n_x if there are indices (NaN if there is
    no such row: nobody has waited for them to be checked), and the bias `b`;
    the recurrent side is row j of `zh` (of row length `hrow`), if it is not in `zx` already, and the bias `bh`.
    The last stage leaves the states of an example past its end as they were: `h`, if that is not what enters.
    """
    trace, leaving, saved = trace_forward(cell, i)
    n_in, last = len(cell.entering(i)), i == len(cell.stages) - 1
    held = [f"h{k}" for k in range(len(leaving))] if last and i > 0 else []
    arguments = ["const storage* zx", "const i64* index", "const storage* zh"]
    arguments += ["const storage* b", "const storage* bh"]
    arguments += [f"const storage* in{k}" for k in range(n_in)]
    arguments += [f"storage* out{k}" for k in range(len(leaving))]
    arguments += [f"storage* keep{k}" for k in range(len(saved))]
    arguments += [f"const storage* {h}" for h in held]
    arguments += ["const i64* lengths", "i64 t", "i64 m", "i64 n", "i64 row", "i64 hrow", "i64 n_x"]
    lines = [*_ELEMENT, "const i64 chosen = index ? index[j] : (i64)j;"]
    lines += [
        "const bool known = !index || (chosen >= 0 && chosen < n_x);",
        "const storage* x = zx + chosen * row + u;",
    ]
    lines += ["const storage* h = zh ? zh + j * hrow + u : zh;"]
    lines += [f"const real p{k} = load(in{k} + e);" for k in range(n_in)]
    for g in range(len(cell.stages[i].gates)):
        lines.append(f'const real zx{g} = (known ? load(x + {g} * n) : real(nanf(""))) + load(b + {g} * n + u);')
        lines.append(
            f"const real zh{g} = (zh ? load(h + {g} * n) : real(0)) + (bh ? load(bh + {g} * n + u) : real(0));"
        )
    lines += trace.lines
    lines.append("const bool past = lengths && t >= lengths[j];")
    for k, symbol in enumerate(leaving):
        old = "real(0)" if not last else f"load(h{k} + e)" if held else f"p{k}"
        lines.append(f"store(out{k} + e, past ? {old} : {symbol.name});")
    lines += [f"store(keep{k} + e, past ? real(0) : {symbol.name});" for k, symbol in enumerate(saved)]
    return kernel(f"forward_{i}", arguments, lines)


def _backward(cell: Cell, i: int) -> str:
    """The kernel ``backward_i``.

    The last stage adds cotangents `y` from outside, where there are any. Past an example's end dz is zero and nothing
    else is written: the cotangents of its states stay as they are.
    """
    trace, dzx, dzh, dp = trace_backward(cell, i)
    stage, n_in, last = cell.stages[i], len(cell.entering(i)), i == len(cell.stages) - 1
    outs = range(len(stage.out))
    arguments = [f"const storage* y{k}" for k in outs] if last else []
    arguments += [f"const real* carry{k}" for k in outs]
    arguments += [f"const storage* in{k}" for k in range(n_in)]
    arguments += [f"const storage* out{k}" for k in outs]
    arguments += [f"const storage* keep{k}" for k in range(len(stage.saved))]
    arguments += ["storage* dzx"] + ([] if stage.additive else ["storage* dzh"])
    arguments += [f"real* enter{k}" for k in range(n_in)]
    arguments += ["const i64* lengths", "i64 t", "i64 m", "i64 n", "i64 row", "i64 hrow"]
    gates = range(len(stage.gates))
    lines = [*_ELEMENT, "storage* zx = dzx + j * row + u;"]
    lines += [] if stage.additive else ["storage* zh = dzh + j * hrow + u;"]
    lines.append("if (lengths && t >= lengths[j]) {")
    lines += [f"  store(zx + {g} * n, real(0));" for g in gates]
    lines += [] if stage.additive else [f"  store(zh + {g} * n, real(0));" for g in gates]
    lines += ["  return;", "}"]
    for k in outs:
        more = f" + (y{k} ? load(y{k} + e) : real(0))" if last else ""
        lines.append(f"const real d{k} = carry{k}[e]{more};")
    lines += [f"const real p{k} = load(in{k} + e);" for k in range(n_in)]
    lines += [f"const real q{k} = load(out{k} + e);" for k in outs]
    lines += [f"const real k{k} = load(keep{k} + e);" for k in range(len(stage.saved))]
    lines += trace.lines
    lines += [f"store(zx + {g} * n, {dzx[g].name});" for g in gates]
    lines += [] if stage.additive else [f"store(zh + {g} * n, {dzh[g].name});" for g in gates]
    for k, symbol in enumerate(dp):
        # Without lengths the product with the recurrent weights writes over a zero.
        guard = "if (lengths) " if k == 0 and trace.is_zero(symbol) else ""
        lines.append(f"{guard}enter{k}[e] = {symbol.name};")
    return kernel(f"backward_{i}", arguments, lines)


def _pack() -> str:
    """The kernel ``pack``: matrices to their places, in one launch; y counts them."""
    fields = ("row_from", "column_from", "row_to", "column_to", "rows", "columns")
    arguments, cases = [], []
    for job in range(PACK_JOBS):
        arguments += [f"const storage* src{job}", f"storage* dst{job}", *(f"i64 {field}{job}" for field in fields)]
        given = ", ".join(f"{name}{job}" for name in ("src", *fields[:2], "dst", *fields[2:]))
        cases.append(f"if (blockIdx.y == {job}) copy_matrix({given});")
    return kernel("pack", arguments, cases)
