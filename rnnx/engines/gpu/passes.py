"""What forward and backward passes share: the kernels of a cell, and the work of one stage in one step."""

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rnnx.cells.wiring import Slot, StageWiring, wiring
from rnnx.engines.gpu import geometry, persistent
from rnnx.engines.gpu.codegen import PACK_JOBS, launch_size
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.geometry import Geometry
from rnnx.engines.gpu.kernel import Kernel, LaunchSize, declared, options, read
from rnnx.engines.gpu.launches import Launcher
from rnnx.engines.gpu.pass_key import PassKey


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

    Arrays are known by name: those of `PassKey.tape_shapes`, and the pass's own. With `captured`, the loop is captured
    as a CUDA graph after its first run, and replayed from then on.
    """

    def __init__(self, stream: DeviceStream, key: PassKey, *, captured: bool) -> None:
        super().__init__(stream, key.cell, key.dtype)
        self.key, self.shapes = key, key.tape_shapes()
        self.addresses: dict[str, int] = {}
        self._state_bytes = key.m * key.n * key.dtype.itemsize  # of one state, or one gate, in one step
        self._geometry = geometry.choose(key, stream.precision, stream.processor)
        self._captured = captured
        self._replay: Callable[[], None] | None = None

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        raise NotImplementedError

    def run(self) -> None:
        """Run or replay the loop."""
        if self._replay:
            self._replay()
            return
        self.loop()
        if self._captured and self.stream.can_capture:
            self._replay = self.stream.capture(self.loop) or self.loop

    def allocate(self, shapes: Shapes) -> Arena:
        """Allocate arrays of the pass."""
        arena = Arena(self.stream, shapes)
        self.shapes |= shapes
        self.addresses |= arena.addresses
        return arena

    def load_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Fill the arrays of `PassKey.packed_shapes`."""
        key, n, job, jobs = self.key, self.key.n, declared(read("layout.cu"), "copy_matrix"), []
        wx_strides = (1, key.n_zx * n) if key.indices else (key.n_x, 1)

        def add(source: Array | None, name: str, row: int, strides: tuple[int, int], columns: int) -> None:
            """Copy `columns` columns, or zeros, to rows `row` ... of an array."""
            src, (row_from, column_from) = 0, (0, 0)
            if source is not None:
                src, (row_from, column_from) = self.stream.address(source), self.stream.strides(source)
            dst, (row_to, column_to) = self.address(name) + row * strides[0] * key.dtype.itemsize, strides
            values = {"src": src, "row_from": row_from, "column_from": column_from, "rows": n, "columns": columns}
            jobs.append(job.bind(values | {"dst": dst, "row_to": row_to, "column_to": column_to}))

        for stage in wiring(key.cell):
            for gate, row, own in key.gate_rows(stage):
                w_x, w_h = gate.split(parameters, n)
                if w_h is not None:
                    add(w_h, f"wh{stage.number}", own.start, (n // stage.heads, 1), n // stage.heads)
                if w_x is not None:
                    add(w_x, "wx", row.start, wx_strides, key.n_x)
                    add(parameters.get(gate.bias), "b", row.start, (1, 1), 1)
                if w_h is not None and key.has_recurrent_bias(stage):
                    add(parameters.get(gate.recurrent_bias or ""), f"bh{stage.number}", own.start, (1, 1), 1)
        for k, name in enumerate(key.cell.vectors):
            add(parameters[name], f"v{k}", 0, (1, 1), 1)
        blocks = min(-(-n * max(n, key.n_x) // 256), 64)
        for first in range(0, len(jobs), PACK_JOBS):
            batch = jobs[first : first + PACK_JOBS]
            unused = [0] * len(job.names) * (PACK_JOBS - len(batch))
            self.launch("pack", (blocks, len(batch)), (256, 1), [*itertools.chain(*batch), *unused])

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        return self.addresses.get(name, 0)

    def matrix(self, name: str) -> Matrix:
        """Return an array as a matrix, see `Matrix.of`."""
        return Matrix.of(self.addresses[name], *self.shapes[name])

    def _place(self, slot: Slot, before: int = 0, after: int = 1) -> StepArgument:
        """Return the address of a slot's values. At step 0, the states are S<k>[before] and S<k>[after]."""
        size = self._state_bytes
        if slot.kind == "vector":
            return StepArgument(self.address(f"v{slot.number}"))
        if slot.kind == "input":
            return StepArgument(self.address(f"E{slot.number}"), size)
        if slot.kind == "saved":
            return StepArgument(self.address(f"K{slot.number}"), size if self.key.keep else 0)
        return StepArgument(self.address(f"S{slot.number}") + (after if slot.after else before) * size, size)

    def _size(self, kernel: Kernel) -> LaunchSize:
        return launch_size(kernel, self.key.m, self.key.n, self.key.dtype)

    def _bind(
        self, stage: StageWiring, kernel: Kernel, row: int, values: Mapping[str, StepArgument | int]
    ) -> list[StepArgument]:
        """Return the arguments of a stage's kernel: `values`, and those common to all kernels. `row` is in blocks."""
        key = self.key
        sizes = {"m": key.m, "n": key.n, "row": row * key.n, "hrow": stage.n_zh * key.n}
        arguments = kernel.bind({**values, **sizes, "lengths": self.address("lengths"), "t": StepArgument(0, 1)})
        return [value if isinstance(value, StepArgument) else StepArgument(value) for value in arguments]

    def _blocks(self, stage: StageWiring, side: Matrix, operand: Matrix) -> list[tuple[Matrix, Matrix, Matrix]]:
        """Return the parts of the recurrent side, of the weights and of the operand that belong together: per gate and
        head, or all of them.
        """
        wh = self.matrix(f"wh{stage.number}")
        if stage.heads == 1:
            return [(side, wh, operand)]
        d = self.key.n // stage.heads
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

    def _whole_pass(self, division: Geometry, kernel: Kernel, *, backward: bool, **values: int) -> None:
        """Launch a persistent kernel. Arguments not in `values` are sizes, and arrays by name."""
        key = self.key
        sizes = {"n_steps": key.n_steps, "m": key.m, "n": key.n}
        arguments = kernel.bind({**{name: self.address(name) for name in kernel.names}, **sizes, **values})
        launch = self.stream.kernels((persistent.source(division, kernel),), options(key.dtype))
        blocks, shared = division.blocks(key.m), division.shared_bytes(key.cell, backward=backward)
        launch(kernel.name, (blocks, 1), (geometry.THREADS, 1), arguments, shared=shared)
