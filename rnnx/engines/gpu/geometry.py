"""How persistent kernels divide a pass among blocks and threads, and when they are used.

A cluster of blocks runs `EXAMPLES` examples. Each block has some of the units, and keeps the rows of the recurrent
weights of these units in registers. A product of a stage multiplies them by an operand, which has a number per unit
forward, and a number per gate and unit backward. See ``kernels/persistent.cuh``.
"""

from functools import lru_cache
from typing import NamedTuple

from rnnx.cells import Cell
from rnnx.cells.wiring import StageWiring, uses_means, wiring
from rnnx.engines.gpu.device import DType, Processor
from rnnx.engines.gpu.pass_key import PassKey

EXAMPLES, WARPS = 8, 8  # of a cluster; of a block
THREADS = 32 * WARPS  # of a block
_CLUSTERS = (1, 2, 4, 8, 16)  # blocks
_MOST_UNITS = THREADS // EXAMPLES  # of a block: one thread per example and unit
_MOST_WORDS = 128  # registers of a thread for weights; more would spill

# Microseconds of a step of a persistent kernel: of each exchange, per block of the cluster, and per register of weights
# in a thread. Measured with prototypes on an H100, and rounded up; TF32 and float64 are estimates.
_EXCHANGE, _BLOCK = 0.8, 0.045
_WORD = {"float16": 0.008, "bfloat16": 0.008, "tf32": 0.012, "float32": 0.021, "float64": 0.1}
# Microseconds of a step of step kernels: by compute capability, of two nodes in a CUDA graph, and per million
# multiplications. Measured on an H100 and assumed for later devices. Devices that are not listed run step kernels.
_NODES = {9: 3.8, 10: 3.8}
_MILLION = {"float16": 0.02, "bfloat16": 0.02, "tf32": 0.03, "float32": 0.08, "float64": 0.08}
_RESIDENT = 0.8  # share of the multiprocessors on which clusters find room at the same time
_LARGE = 128  # multiprocessors from which on clusters of 16 blocks are used; some smaller devices have no room for any


class ProductShape(NamedTuple):
    """The template arguments of a product, and of the exchange of its operand."""

    rows: int
    sent: int  # numbers per example in the operand, without padding
    k: int
    split: int
    words: int  # registers of a thread for weights
    partial_sums: int  # in shared memory


class Geometry(NamedTuple):
    """The division of a pass."""

    tensor: bool  # whether products run on tensor cores
    itemsize: int
    cluster: int  # blocks of a cluster
    units: int  # of a block

    @property
    def warp_rows(self) -> int:
        """Rows of a product that a warp does."""
        return 32 if self.tensor else 16

    @property
    def padded(self) -> int:
        """Units of a cluster."""
        return self.cluster * self.units

    def blocks(self, m: int) -> int:
        """Return the number of blocks for m examples."""
        return self.cluster * -(-m // EXAMPLES)

    def product(self, stage: StageWiring, *, backward: bool) -> ProductShape | None:
        """Return the shape of a stage's product; None if there is none, or too few warps."""
        rows, sent = stage.n_zh * self.units, self.padded
        if backward:
            rows, sent = self.units, stage.n_zh * self.padded
        groups = -(-rows // self.warp_rows)
        if not 0 < groups <= WARPS or not stage.n_zh:
            return None
        columns = (4 if self.tensor else 8) * 16 // self.itemsize  # of a warp in a step: 16 bytes per lane
        steps = -(-sent // columns)
        split = min(WARPS // groups, steps)
        steps = -(-steps // split)
        sums = split * EXAMPLES * (groups * self.warp_rows + 4)
        return ProductShape(rows, sent, steps * split * columns, split, 16 * steps, sums)

    def products(self, cell: Cell, *, backward: bool) -> list[ProductShape | None]:
        """Return the shapes of the products of the stages."""
        return [self.product(stage, backward=backward) for stage in wiring(cell)]

    def shared_bytes(self, cell: Cell, *, backward: bool) -> int:
        """Return the shared memory of a block: first for weights, then for operands, counters and sums."""
        shapes = [shape for shape in self.products(cell, backward=backward) if shape]
        sums = max(shape.partial_sums for shape in shapes) * max(self.itemsize, 4)
        operands = sum(2 * shape.k * EXAMPLES * self.itemsize + 16 for shape in shapes)
        return max(4 * THREADS * max(shape.words for shape in shapes), operands + sums)

    def fits(self, cell: Cell, processor: Processor) -> bool:
        """Whether the weights fit in registers, the rest in shared memory, and a cluster on the device."""
        if self.units > _MOST_UNITS or _resident(self, processor) < 1:
            return False
        if self.cluster > 8 and processor.multiprocessors < _LARGE:
            return False
        for backward in (False, True):
            shapes = self.products(cell, backward=backward)
            if any(bool(stage.n_zh) != bool(shape) for stage, shape in zip(wiring(cell), shapes, strict=True)):
                return False
            if sum(shape.words for shape in shapes if shape) > _MOST_WORDS:
                return False
            if self.shared_bytes(cell, backward=backward) > processor.shared_bytes:
                return False
        return True

    def microseconds(self, cell: Cell, precision: str, m: int, processor: Processor) -> float:
        """Estimate the time of a step, forward."""
        shapes = [shape for shape in self.products(cell, backward=False) if shape]
        words = sum(shape.words for shape in shapes)
        rounds = -(-m // (EXAMPLES * _resident(self, processor)))
        return rounds * (len(shapes) * (_EXCHANGE + _BLOCK * self.cluster) + _WORD[precision] * words)


def _resident(geometry: Geometry, processor: Processor) -> int:
    """Return the number of clusters that run at the same time."""
    return int(_RESIDENT * processor.multiprocessors) // geometry.cluster


def choose(key: PassKey, precision: str, processor: Processor | None) -> Geometry | None:
    """Return the geometry of the fastest persistent kernels; None if step kernels are used."""
    if processor is None or processor.persistent is False:
        return None
    return _choose(key.cell, key.dtype, precision, key.m, key.n, processor)


@lru_cache(maxsize=1024)
def _choose(cell: Cell, dtype: DType, precision: str, m: int, n: int, processor: Processor) -> Geometry | None:
    stages, nodes = wiring(cell), _NODES.get(processor.capability // 10)
    recurrent = [stage.n_zh for stage in stages if stage.n_zh]
    others = cell.has_widths or any(stage.heads > 1 or uses_means(stage) for stage in stages)
    if not recurrent or nodes is None or others:
        return None
    precision = precision if precision == "tf32" and dtype.name == "float32" else dtype.name
    tensor = dtype.itemsize == 2 or precision == "tf32"
    choices = [Geometry(tensor, dtype.itemsize, cluster, -(-n // (8 * cluster)) * 8) for cluster in _CLUSTERS]
    times = {one: one.microseconds(cell, precision, m, processor) for one in choices if one.fits(cell, processor)}
    fastest = min(times, key=lambda one: times[one], default=None)
    loop = len(recurrent) * nodes + 1e-6 * m * n * n * sum(recurrent) * _MILLION[precision]
    if fastest is None or processor.persistent or times[fastest] <= loop:
        return fastest
    return None
