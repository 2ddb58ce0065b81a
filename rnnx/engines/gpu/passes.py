"""What forward and backward passes share: the kernels of a cell, and the work of one stage in one step."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rnnx.cells.wiring import Slot, StageWiring
from rnnx.engines.gpu import cluster_codegen
from rnnx.engines.gpu.codegen import THREADS, Kernel, options, sources
from rnnx.engines.gpu.device import Arena, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.packing import tape_shapes
from rnnx.engines.gpu.pass_key import PassKey


class StageStep(NamedTuple):
    """The work of a stage in every step: an elementwise kernel, and the product C = A B + beta C."""

    kernel: str
    arguments: list[StepArgument]
    a: Matrix
    b: Matrix
    c: Matrix
    beta: int


class Pass:
    """The kernels of a cell, launched step by step, or once for a whole pass on thread block clusters.

    Arrays are known by name: those of `packing.tape_shapes`, and the pass's own. With `captured`, the loop is captured
    as a CUDA graph after its first run, and replayed from then on.
    """

    def __init__(self, stream: DeviceStream, key: PassKey, *, captured: bool) -> None:
        self.stream, self.key = stream, key
        self.launch = stream.kernels(sources(key.cell), options(key.dtype))
        self.shapes: Shapes = tape_shapes(key)
        self.addresses: dict[str, int] = {}
        self._state_bytes = key.m * key.n * key.dtype.itemsize  # of one state, or one gate, in one step
        limit, sizes = stream.cluster_shared_bytes, (key.dtype.itemsize, key.n, key.m)
        self._cluster_rows = cluster_codegen.rows_per_cluster(key.cell, *sizes, limit) if limit else 0
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

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        return self.addresses.get(name, 0)

    def matrix(self, name: str) -> Matrix:
        """Return an array as a matrix, see `Matrix.of`."""
        return Matrix.of(self.addresses[name], *self.shapes[name])

    def _place(self, slot: Slot, before: int = 0, after: int = 1) -> StepArgument:
        """Return the address of a slot's values. At step 0, the states are S<k>[before] and S<k>[after]."""
        size = self._state_bytes
        if slot.kind == "saved":
            return StepArgument(self.address(f"K{slot.number}"), size if self.key.keep else 0)
        return StepArgument(self.address(f"S{slot.number}") + (after if slot.after else before) * size, size)

    def _bind(self, stage: StageWiring, kernel: Kernel, values: Mapping[str, StepArgument | int]) -> list[StepArgument]:
        """Return the arguments of a stage's kernel: `values`, and those common to all kernels."""
        key = self.key
        sizes = {"m": key.m, "n": key.n, "row": key.n_gates * key.n, "hrow": stage.n_gates * key.n}
        arguments = kernel.bind({**values, **sizes, "lengths": self.address("lengths"), "t": StepArgument(0, 1)})
        return [value if isinstance(value, StepArgument) else StepArgument(value) for value in arguments]

    def _product(self, stage: StageStep, t: int) -> None:
        self.stream.gemm(stage.a.at(t), stage.b, stage.c.at(t), stage.beta)

    def _elementwise(self, stage: StageStep, t: int) -> None:
        blocks = -(-self.key.m * self.key.n // THREADS)
        arguments = [base + t * step for base, step in stage.arguments]
        self.launch(stage.kernel, (blocks, 1), (THREADS, 1), arguments)

    def _whole_pass(self, kernel: Kernel, **values: int) -> None:
        """Launch a kernel of `cluster_codegen`. Arguments not in `values` are sizes, and arrays by name."""
        key, rows = self.key, self._cluster_rows
        sizes = {"n_steps": key.n_steps, "m": key.m, "n": key.n, "row": key.n_gates * key.n}
        arrays = {name: self.address(name) for name in kernel.names}
        launch = self.stream.kernels((cluster_codegen.source(key.cell),), (*options(key.dtype), f"-DRNNX_ROWS={rows}"))
        blocks = cluster_codegen.CLUSTER * -(-key.m // rows)
        shared = cluster_codegen.shared_bytes(key.cell, key.dtype.itemsize, key.n, rows)
        arguments = kernel.bind({**arrays, **sizes, **values})
        launch(kernel.name, (blocks, 1), (cluster_codegen.THREADS, 1), arguments, shared=shared)
