"""How persistent kernels divide a pass among blocks and threads, and when they are used.

A group of blocks runs some of the examples. Each block has some of the units, and keeps the rows of the recurrent
weights of these units in registers. A product of a stage multiplies them by an operand, which has a number per unit
forward, and a number per gate and unit backward. A group is a cluster, for small layers, or, in a grid, several
clusters. See ``kernels/persistent.cuh``.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

from rnnx.cells import Cell
from rnnx.cells.operations import uses_means
from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.device import DType, Processor
from rnnx.engines.gpu.pass_key import PassKey

EXAMPLES, WARPS = 8, 8  # of a cluster; of its blocks
COUNT_WORDS = 4  # of 64 bits: a sector of the cache per count
_CLUSTERS = (1, 2, 4, 8, 16)  # blocks
_GRID_CLUSTER = 2  # blocks of a cluster in a grid: two multiprocessors are always neighbours
_MOST_WORDS = 1024  # registers of the threads of a lane for weights, 128 of each in 8 warps; more would spill

# Microseconds of a step of a persistent kernel: of each exchange, per block of the cluster, and per register of weights
# in a thread. Measured with prototypes on an H100, and rounded up; TF32 and float64 are estimates.
_EXCHANGE, _BLOCK = 0.8, 0.045
_WORD = {"float16": 0.008, "bfloat16": 0.008, "tf32": 0.012, "float32": 0.021, "float64": 0.1}
# Microseconds of a step of step kernels: by compute capability, of two nodes in a CUDA graph, and per million
# multiplications. Measured on an H100 and assumed for later devices. Devices that are not listed run step kernels.
_NODES = {9: 3.8, 10: 3.8}
_MILLION = {"float16": 0.02, "bfloat16": 0.02, "tf32": 0.03, "float32": 0.08, "float64": 0.08}
# Microseconds of a step of the kernels of a grid: of a barrier, per million bytes that the blocks read, and per million
# multiplications of a block. Of these, the first two were measured with a prototype on an H100. As the kernels have not
# been timed, they are only used where they are asked for and clusters are too small.
_BARRIER, _READ, _PRODUCT = 1.2, 0.13, 2.0
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
    group: int = 0  # blocks that exchange operands, through global memory; 0: those of a cluster, within it
    examples: int = EXAMPLES  # of a group
    warps: int = WARPS  # of a block
    tiles: int = 2  # tiles of 16 rows, of a product on tensor cores, that a warp does

    @property
    def grid(self) -> bool:
        """Whether a group is several clusters. All blocks must then run at the same time."""
        return bool(self.group)

    @property
    def blocks_of_group(self) -> int:
        """Blocks that exchange operands."""
        return self.group or self.cluster

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def warp_rows(self) -> int:
        """Rows of a product that a warp does."""
        return 16 * self.tiles if self.tensor else 16

    @property
    def padded(self) -> int:
        """Units of a group."""
        return self.blocks_of_group * self.units

    def blocks(self, m: int) -> int:
        """Return the number of blocks for m examples."""
        return self.blocks_of_group * -(-m // self.examples)

    def product(self, stage: StageWiring, *, backward: bool) -> ProductShape | None:
        """Return the shape of a stage's product; None if there is none, or too few warps."""
        rows, sent = stage.n_zh * self.units, self.padded
        if backward:
            rows, sent = self.units, stage.n_zh * self.padded
        row_groups = -(-rows // self.warp_rows)
        if not 0 < row_groups <= WARPS or not stage.n_zh:
            return None
        columns = (4 if self.tensor else 8) * 16 // self.itemsize  # of a warp in a step: 16 bytes per lane
        steps = -(-sent // columns)
        split = min(WARPS // row_groups, steps)
        steps = -(-steps // split)
        sums = split * self.examples * (row_groups * self.warp_rows + 4)
        words = (8 * self.tiles if self.tensor else 16) * steps
        return ProductShape(rows, sent, steps * split * columns, split, words, sums)

    def products(self, cell: Cell, *, backward: bool) -> list[ProductShape | None]:
        """Return the shapes of the products of the stages."""
        return [self.product(stage, backward=backward) for stage in wiring(cell)]

    def shared_bytes(self, cell: Cell, *, backward: bool) -> int:
        """Return the shared memory of a block: first for weights, then for operands, counters and sums."""
        shapes = [shape for shape in self.products(cell, backward=backward) if shape]
        sums = max(shape.partial_sums for shape in shapes) * max(self.itemsize, 4)
        operands = sum(self.operand_bytes(shape) + 16 for shape in shapes)
        return max(4 * self.threads * max(shape.words for shape in shapes), operands + sums)

    def operand_bytes(self, shape: ProductShape) -> int:
        """Return the size of the buffers of an operand in shared memory: two, or one in a grid."""
        return (1 if self.grid else 2) * shape.k * self.examples * self.itemsize

    def published_bytes(self, shape: ProductShape) -> int:
        """Return the size of a group's two buffers of an operand in global memory."""
        return 2 * shape.sent * self.examples * self.itemsize

    def group_sizes(self, cell: Cell, m: int, *, backward: bool) -> tuple[int, int]:
        """Return the bytes of the operands of all groups, and the 64-bit words of their counts."""
        shapes, groups = [shape for shape in self.products(cell, backward=backward) if shape], -(-m // self.examples)
        return groups * sum(map(self.published_bytes, shapes)), groups * len(shapes) * COUNT_WORDS

    def fits(self, cell: Cell, processor: Processor, m: int, *, backward: bool) -> bool:
        """Whether the weights fit in registers, the rest in shared memory, and a cluster or a grid on the device."""
        if self.units * self.examples > self.threads:  # one thread per example and unit
            return False
        if self.cluster > 8 and processor.multiprocessors < _LARGE:
            return False
        if self.grid:  # a block of any size has a multiprocessor to itself
            resident = processor.grids and self.blocks(m) <= processor.multiprocessors
        else:
            resident = _resident(self, processor) >= 1
        if not resident:
            return False
        shapes = self.products(cell, backward=backward)
        if any(bool(stage.n_zh) != bool(shape) for stage, shape in zip(wiring(cell), shapes, strict=True)):
            return False
        if self.warps * sum(shape.words for shape in shapes if shape) > _MOST_WORDS:
            return False
        return self.shared_bytes(cell, backward=backward) <= processor.shared_bytes

    def microseconds(self, cell: Cell, precision: str, m: int, processor: Processor, *, backward: bool) -> float:
        """Estimate the time of a step; of the kernels of clusters, forward."""
        shapes = [shape for shape in self.products(cell, backward=backward and self.grid) if shape]
        if self.grid:
            read = self.blocks(m) * sum(shape.sent for shape in shapes) * self.examples * self.itemsize / self.cluster
            products = self.examples * sum(-(-shape.rows // self.warp_rows) * shape.k for shape in shapes)
            times = _READ * read, _PRODUCT * products * self.warp_rows
            return len(shapes) * _BARRIER + 1e-6 * sum(times)
        words = sum(shape.words for shape in shapes)
        rounds = -(-m // (EXAMPLES * _resident(self, processor)))
        return rounds * (len(shapes) * (_EXCHANGE + _BLOCK * self.cluster) + _WORD[precision] * words)


def _resident(geometry: Geometry, processor: Processor) -> int:
    """Return the number of clusters that run at the same time."""
    return int(_RESIDENT * processor.multiprocessors) // geometry.cluster


def choose(key: PassKey, precision: str, processor: Processor | None, *, backward: bool = False) -> Geometry | None:
    """Return the geometry of the fastest persistent kernel; None if step kernels are used."""
    if processor is None or processor.persistent is False:
        return None
    return _choose(key.cell, key.dtype, precision, key.m, key.n, processor, backward=backward)


def _grids(tensor: bool, itemsize: int, n: int) -> list[Geometry]:
    """Return geometries whose groups are several clusters."""
    if not tensor:
        return []
    cluster, found = _GRID_CLUSTER, []
    for units, examples, warps, tiles in itertools.product((8, 16, 32), (8, 16, 32, 64), (8, 16), (1, 2)):
        group = -(-n // (units * cluster)) * cluster
        found.append(Geometry(tensor, itemsize, cluster, units, group, examples, warps, tiles))
    return found


@lru_cache(maxsize=1024)
def _choose(
    cell: Cell, dtype: DType, precision: str, m: int, n: int, processor: Processor, *, backward: bool
) -> Geometry | None:
    stages, nodes = wiring(cell), _NODES.get(processor.capability // 10)
    recurrent = [stage.n_zh for stage in stages if stage.n_zh]
    others = cell.has_widths or any(stage.heads > 1 or uses_means(stage) for stage in stages)
    if not recurrent or nodes is None or others:
        return None
    precision = precision if precision == "tf32" and dtype.name == "float32" else dtype.name
    tensor = dtype.itemsize == 2 or precision == "tf32"
    choices = [Geometry(tensor, dtype.itemsize, cluster, -(-n // (8 * cluster)) * 8) for cluster in _CLUSTERS]
    both = (False, True)
    choices = [one for one in choices if all(one.fits(cell, processor, m, backward=direction) for direction in both)]
    if processor.persistent and not choices:
        grids = _grids(tensor, dtype.itemsize, n)
        choices = [one for one in grids if one.fits(cell, processor, m, backward=backward)]
    times = {one: one.microseconds(cell, precision, m, processor, backward=backward) for one in choices}
    fastest = min(times, key=lambda one: times[one], default=None)
    loop = len(recurrent) * nodes + 1e-6 * m * n * n * sum(recurrent) * _MILLION[precision]
    if fastest is None or processor.persistent or times[fastest] <= loop:
        return fastest
    return None
