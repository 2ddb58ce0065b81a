"""What forward and backward passes share: the kernels of a cell, and the work of one stage in one step."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rnnx._core.arrays import INDEX
from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.gpu import geometry, persistent
from rnnx.engines.gpu.codegen import launch_size
from rnnx.engines.gpu.copies import INDICES, NO_MATRIX, Copy, End, Numbers, Transfer
from rnnx.engines.gpu.device import Arena, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.geometry import Geometry
from rnnx.engines.gpu.kernel import Kernel, LaunchSize, options
from rnnx.engines.gpu.launches import Launcher
from rnnx.engines.gpu.pass_key import PassKey

_ARRAYS = {"state": "S", "saved": "K", "input": "E", "vector": "v"}  # by the kinds of slots


class Product(NamedTuple):
    """A product C = A B + beta C."""

    a: Matrix
    b: Matrix
    c: Matrix
    beta: int


class StageStep(NamedTuple):
    """The work of a stage in every step: an elementwise kernel and, if a gate is recurrent, products."""

    size: LaunchSize
    arguments: list[StepArgument]
    products: list[Product]


class Pass(Launcher):
    """The kernels of a cell, launched step by step, or one persistent kernel for the whole pass, if it has a geometry.

    Arrays are known by name: those of `PassKey.tape_shapes`, and the pass's own. With `captured`, the work is captured
    as a CUDA graph after its first run. From then on, a call sends its numbers and launches the graph.
    """

    backward: bool  # whether it is a backward pass
    transfer: Transfer  # with two groups of copies, before and after the loop

    def __init__(self, stream: DeviceStream, key: PassKey, *, captured: bool) -> None:
        super().__init__(stream, key.cell, key.dtype)
        self.key, self.shapes = key, key.tape_shapes()
        self.addresses: dict[str, int] = {}
        self._geometry = geometry.choose(key, stream.precision, stream.processor, backward=self.backward)
        self.captured = captured
        self._states = range(len(key.cell.states))
        self.replay: Callable[[], None] | None = None

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        raise NotImplementedError

    def work(self) -> None:
        """Run the pass, from the copies of the caller's arrays to those of the results, without allocating."""
        raise NotImplementedError

    def run(self, numbers: Sequence[int]) -> None:
        """Run or replay the pass for a call with these numbers."""
        self.transfer.send(numbers)
        if self.replay:
            self.replay()
            return
        self.work()
        if self.captured and self.stream.can_capture:
            self.replay = self.stream.capture(self.work) or self.work

    def allocate(self, shapes: Shapes) -> Arena:
        """Allocate arrays of the pass."""
        arena = Arena(self.stream, shapes)
        self.shapes |= shapes
        self.addresses |= arena.addresses
        return arena

    def group_shapes(self) -> Shapes:
        """Return the arrays with which the blocks of a grid communicate, see ``kernels/persistent.cuh``."""
        if not self._geometry or not self._geometry.grid:
            return {}
        operands, counts = self._geometry.group_sizes(self.key.cell, self.key.m, backward=self.backward)
        return {"operands": ((operands,), np.dtype(np.uint8)), "counts": ((counts,), INDEX)}

    def group_copies(self) -> list[Copy]:
        """Return the copy of zeros to the counts of a grid."""
        if "counts" not in self.shapes:
            return []
        target, (n_counts,) = End(self.address("counts"), (INDEX.itemsize,)), self.shapes["counts"][0]
        return [Copy(End(0), target, (n_counts, 1, 1), INDICES)]

    def parameter_copies(self, numbers: Numbers) -> list[Copy]:
        """Return the copies of the parameters to the arrays of `PassKey.packed_shapes`."""
        key, copies = self.key, list[Copy]()
        given = {name: numbers.matrix() for name in key.parameter_keys}
        wx_strides = (1, key.zx_row) if key.indices else (key.n_x, 1)

        def add(source: End, name: str, rows: slice, strides: tuple[int, int], columns: int = 0) -> None:
            """Copy `columns` columns, or a vector, to rows of an array."""
            by_row, by_column = (stride * key.dtype.itemsize for stride in strides)
            n, target = rows.stop - rows.start, self.address(name) + rows.start * by_row
            if columns:
                copies.append(Copy(source, End(target, (by_column, 0, by_row)), (columns, 1, n)))
            else:
                copies.append(Copy(source, End(target, (by_row,)), (n, 1, 1)))

        for stage in wiring(key.cell):
            columns = stage.columns(key.n)
            for gate, rows, own in key.gate_rows(stage):
                places = gate.places(key.n)
                if "h" in places:
                    name, first = places["h"]
                    add(given[name].columns(first), f"wh{stage.number}", own, (columns, 1), columns)
                if "x" in places:
                    name, first = places["x"]
                    add(given[name].columns(first), "wx", rows, wx_strides, key.n_x)
                    add(given.get(gate.bias, NO_MATRIX).vector(), "b", rows, (1, 1))
                if "h" in places and key.has_recurrent_bias(stage):
                    bias = given.get(gate.recurrent_bias or "", NO_MATRIX)
                    add(bias.vector(), f"bh{stage.number}", own, (1, 1))
        for k, (name, n) in enumerate(zip(key.cell.vectors, key.sizes(key.cell.vectors), strict=True)):
            add(given[name].vector(), f"v{k}", slice(0, n), (1, 1))
        return copies

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        return self.addresses.get(name, 0)

    def matrix(self, name: str) -> Matrix:
        """Return an array as a matrix, see `Matrix.of`."""
        return Matrix.of(self.addresses[name], *self.shapes[name])

    def _place(self, slot: Slot, before: int = 0, after: int = 1) -> StepArgument:
        """Return the address of a slot's values. At step 0, the states are S<k>[before] and S<k>[after]."""
        name = f"{_ARRAYS[slot.kind]}{slot.number}"
        address, size = self.address(name), self._bytes(self.shapes[name][0][-1])
        if slot.kind == "state":
            return StepArgument(address + (after if slot.after else before) * size, size)
        once = slot.kind == "vector" or (slot.kind == "saved" and not self.key.keep)
        return StepArgument(address, 0 if once else size)

    def _bytes(self, row: int) -> int:
        """Return the size of an array (m, row), of one step."""
        return self.key.m * row * self.key.dtype.itemsize

    def _size(self, stage: StageWiring, kernel: Kernel) -> LaunchSize:
        return launch_size(kernel, self.key.m, stage.units(self.key.n), self.key.dtype)

    def _bind(
        self, stage: StageWiring, kernel: Kernel, row: int, values: Mapping[str, StepArgument | int]
    ) -> list[StepArgument]:
        """Return the arguments of a stage's kernel: `values`, and those common to all kernels."""
        key, n = self.key, stage.units(self.key.n)
        sizes = {"m": key.m, "n": n, "row": row, "hrow": stage.n_zh * n}
        arguments = kernel.bind({**values, **sizes, "lengths": self.address("lengths"), "t": StepArgument(0, 1)})
        return [value if isinstance(value, StepArgument) else StepArgument(value) for value in arguments]

    def _blocks(self, stage: StageWiring, side: Matrix, operand: Matrix) -> list[tuple[Matrix, Matrix, Matrix]]:
        """Return the parts of the recurrent side, of the weights and of the operand that belong together: per gate and
        head, or all of them.
        """
        wh = self.matrix(f"wh{stage.number}")
        if stage.heads == 1:
            return [(side, wh, operand)]
        d = stage.columns(self.key.n)
        return [
            (
                side.block(0, side.rows, block * d, d),
                wh.block(block * d, d, 0, d),
                operand.block(0, operand.rows, block % stage.heads * d, d),
            )
            for block in range(stage.n_zh * stage.heads)
        ]

    def _product(self, stage: StageStep, t: int) -> None:
        for a, b, c, beta in stage.products:
            self.stream.gemm(a.at(t), b, c.at(t), beta)

    def _elementwise(self, stage: StageStep, t: int) -> None:
        kernel, blocks, threads, shared = stage.size
        arguments = [base + t * step for base, step in stage.arguments]
        self.launch(kernel, (blocks, 1), (threads, 1), arguments, shared)

    def _whole_pass(self, division: Geometry, kernel: Kernel, **values: int) -> None:
        """Launch a persistent kernel. Arguments not in `values` are sizes, and arrays by name."""
        key = self.key
        sizes = {"n_steps": key.n_steps, "m": key.m, "n": key.n}
        arguments = kernel.bind({**{name: self.address(name) for name in kernel.names}, **sizes, **values})
        launch = self.stream.kernels((persistent.source(division, kernel),), options(key.dtype))
        blocks, shared = division.blocks(key.m), division.shared_bytes(key.cell, backward=self.backward)
        launch(kernel.name, (blocks, 1), (division.threads, 1), arguments, shared=shared)
