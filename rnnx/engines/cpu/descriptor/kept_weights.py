"""Which packed weights of a forward pass are kept from call to call, and in which format."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rnnx.cells.wiring import wiring
from rnnx.engines.cpu.codegen.formats import FORMATS, packed_bytes
from rnnx.engines.cpu.codegen.gemm import KC, n_vectors
from rnnx.engines.cpu.codegen.ir import machine
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.layout import lines
from rnnx.engines.cpu.runtime.tuning import MANY_ROWS, panel_vectors

# A product is faster with weights in a small format if they do not stay in the cache, and have few rows to multiply.
_SMALLEST = 1 << 18  # bytes of a packed matrix of float32, which must be more
_MOST_ROWS = 12
_LEAST_KEPT = 1 << 14  # bytes: packing fewer takes no longer than finding those that are kept
MANY_EXAMPLES = 2 * MANY_ROWS  # many rows for each of two threads: what is kept does not depend on their number


class Matrix(NamedTuple):
    """A packed matrix that is kept: its number, 2 stage + 1 for input weights; its format, empty for numbers; NV."""

    number: int
    weights: str
    nv: int


class _Side(NamedTuple):
    """The weights of one side of a stage, as a whole or by heads."""

    number: int
    n_k: int
    columns: int  # of all gates
    gates: int
    heads: int
    steps: int  # multiplied at once

    def vectors(self, key: PassKey) -> int:
        return n_vectors(key.dtype, self.columns)

    def size(self, key: PassKey) -> int:
        """Return the bytes of the packed matrix of float32."""
        return self.n_k * self.vectors(key) * machine().vector_bytes


def _sides(key: PassKey, chunk: int) -> Iterator[_Side]:
    for wired in wiring(key.cell):
        n, number = wired.units(key.n), 2 * wired.number
        yield _Side(number, wired.columns(key.n), n * wired.n_zh, wired.n_zh, wired.heads, 1)
        if not key.indices:
            yield _Side(number + 1, key.n_x, n * wired.n_zx, wired.n_zx, 1, chunk)


def formats_of(key: PassKey, chunk: int) -> dict[int, str]:
    """Return the formats of packed matrices by number; `chunk` is the number of steps of an input product.

    Small formats are for matrices that multiply few rows at once on one thread, so that it does not depend on the
    threads, as the order of a sum may not.
    """
    formats = {}
    for side in _sides(key, chunk):
        is_small = key.weights in FORMATS and side.size(key) > _SMALLEST and key.m * side.steps <= _MOST_ROWS
        formats[side.number] = key.weights if is_small else ""
    return formats


def kept_sizes(key: PassKey, formats: Mapping[int, str]) -> dict[Matrix, int]:
    """Return the matrices that are kept, and their bytes."""
    sizes = {}
    for side in _sides(key, 1) if key.weights else ():
        weights = formats[side.number]
        if not weights and side.size(key) <= _LEAST_KEPT:
            continue
        many = key.m if key.m >= MANY_EXAMPLES and not weights else 0
        by_heads = side.heads > 1  # one matrix for each gate and head
        matrix = Matrix(side.number, weights, panel_vectors(1 if by_heads else side.gates, many))
        of_one = n_vectors(key.dtype, side.n_k) if by_heads else side.vectors(key)
        count = side.heads * side.gates if by_heads else 1
        sizes[matrix] = count * lines(packed_bytes(key.dtype, weights, side.n_k, of_one, KC))
    return sizes
