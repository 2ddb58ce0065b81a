"""A C file under construction: its constants, the memory of its functions, and the words that they call."""

import itertools
from collections.abc import Sequence

import numpy as np

from rnnx.cells.expressions import OPERATORS
from rnnx.cells.programs import Program, Style
from rnnx.export.text import Names, array, indented, number
from rnnx.export.words import identifiers
from rnnx.functional.quantization import int8_scales

PANELS = 32, 16, 8, 4  # rows of the panels of a matrix, as in the sections "product" of words.c
VECTORS = 16, 8, 4, 1  # units of a loop in vectors that compilers can use, longest first


def _line(operation: str, name: str, value: str) -> str:
    return f"const {'int' if operation == 'greater' else 'float'} {name} = {value};"


_C = Style(number, lambda word: f"op_{word}", _line)

Value = tuple[str, str]  # the name of a number in a loop, and where it comes from or goes to; "" if it is there


class Code:
    """What the functions of a file share. With `int8`, the weights of layers are stored as integers.

    Attributes
    ----------
    names : Names
        The names at file level.
    arrays : list of str
        Definitions of constants.
    scratch : dict of str to int
        Sizes of the arrays in the state that hold values within a step.
    words : set of str
        Sections of ``words.c``.
    """

    def __init__(self, int8: bool) -> None:
        self.int8, self.names = int8, Names(identifiers())
        self.arrays: list[str] = []
        self.scratch: dict[str, int] = {}
        self.words = {"vectors"}

    def constants(self, name: str, values: np.ndarray) -> str:
        """Define an array of numbers; return its name."""
        name = self.names(name)
        self.arrays.append(array("float", name, values))
        return name

    def pointer(self, constants: str, kind: str = "float") -> tuple[str, list[str]]:
        """Return the name of a pointer to constants, for a loop that reads them, and the lines that declare it."""
        self.words.add("opaque")
        pointer = self.names(f"{constants}_at")
        return pointer, [f"const {kind} *restrict {pointer} = {constants};", f"OPAQUE({pointer});"]

    def memory(self, name: str, size: int) -> str:
        """Return an array of the state for values within a step, at least this large."""
        self.scratch[name] = max(size, self.scratch.get(name, 0))
        return f"s->{name}"

    def start(self, name: str, biases: np.ndarray, y: str) -> list[str]:
        """Return a line that sets y to biases."""
        self.words.add("start")
        return [f"start({y}, {self.constants(name, biases)}, {biases.size});"]

    def product(self, name: str, w: np.ndarray, x: str, y: str, heads: int = 1, *, exact: bool = False) -> list[str]:
        """Return lines that add W x to y; W has the blocks of its heads gate by gate. `exact` is for float32 only."""
        rows, columns = w.shape
        blocks = [w] if heads == 1 else _blocks(w, heads)
        int8 = self.int8 and not exact
        word = "add_product_int8" if int8 else "add_product"
        self.words.add("product_int8" if int8 else "product")
        stored, scales = _rounded(w) if int8 else (w, None)
        packed = np.concatenate([_packed(block) for block in ([stored] if heads == 1 else _blocks(stored, heads))])
        matrix = self.names(name)
        self.arrays.append(array("int8_t" if int8 else "float", matrix, packed))
        of_scales = f", {self.constants(f'{name}_scales', scales)}" if scales is not None else ""
        if heads == 1:
            return [f"{word}({matrix}{of_scales}, {x}, {y}, {rows}, {columns});"]
        n, of_scales = columns * heads, of_scales and f"{of_scales} + k"
        return [
            f"for (h = 0; h < {heads}; ++h)",
            f"  for (g = 0; g < {rows // n}; ++g) {{",
            f"    const int k = g * {n} + h * {columns};",
            f"    const int block = (h * {rows // n} + g) * {len(blocks[0]) * columns};",
            f"    {word}({matrix} + block{of_scales}, {x} + h * {columns}, {y} + k, {columns}, {columns});",
            "  }",
        ]

    def column(self, name: str, w: np.ndarray, y: str) -> list[str]:
        """Return lines that add column x of W to y."""
        rows, kind = len(w), "int8_t" if self.int8 else "float"
        stored, scales = _rounded(w) if self.int8 else (w, None)
        matrix = self.names(name)
        self.arrays.append(array(kind, matrix, stored.T))
        place, lines = self.pointer(matrix, kind)
        value = f"{place}[x * {rows} + u]"
        if scales is not None:
            of_scales, more = self.pointer(self.constants(f"{name}_scales", scales))
            value, lines = f"{of_scales}[u] * (float){value}", lines + more
        return [*lines, f"for (u = 0; u < {rows}; ++u) {y}[u] += {value};"]

    def loop(self, program: Program, operands: Sequence[Value], results: Sequence[Value], n: int) -> list[str]:
        """Return loops over n units that run a program, or nothing if it has no results."""
        if not results:
            return []
        self.words |= {operation for operation, _ in program.instructions if operation not in OPERATORS}
        used = {k for instruction in program.instructions for k in instruction.arguments} | {*program.outputs}
        names = [name for name, _ in operands]
        loaded = [(name, source) for k, (name, source) in enumerate(operands) if k in used and source]
        body = [f"const float {name} = {source};" for name, source in loaded]
        body += program.text(names, [name for name, _ in results], _C).splitlines()
        body += [f"{place} = {name};" for name, place in results]
        return [line for at, end in self._parts(program, n) for line in _for(at, end, body)]

    def _parts(self, program: Program, n: int) -> list[tuple[int, int]]:
        """Return the parts of a loop over n units: multiples of each length of vectors, if its words cost anything.

        Compilers leave what is less than a vector to a loop over single units, which would take as long as the others.
        """
        if all(operation in OPERATORS for operation, _ in program.instructions):
            return [(0, n)]
        ends = [0, *(n - n % size for size in VECTORS)]
        return [(at, end) for at, end in itertools.pairwise(ends) if at < end]


def _blocks(w: np.ndarray, heads: int) -> list[np.ndarray]:
    """Divide stacked blocks (G n, d) of H heads: first by head, then by gate."""
    d = w.shape[1]
    return list(w.reshape(-1, heads, d, d).swapaxes(0, 1).reshape(-1, d, d))


def _packed(w: np.ndarray) -> np.ndarray:
    """Return a matrix in panels."""
    parts, at = [], 0
    for size in PANELS:
        while len(w) - at >= size:
            parts.append(w[at : at + size].T.ravel())
            at += size
    return np.concatenate([*parts, w[at:].ravel()])


def _rounded(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers, and the scale of every row, of weights rounded by `rnnx.quantize`."""
    scales = int8_scales(w)
    return np.rint(w / scales).astype(np.int8), scales


def _for(at: int, end: int, body: Sequence[str]) -> list[str]:
    return [f"for (u = {at}; u < {end}; ++u) {{", *indented(body), "}"]
