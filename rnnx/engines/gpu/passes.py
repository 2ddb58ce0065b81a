"""What forward and backward passes share: the kernels of a cell, and the work of one stage in one step."""

from collections.abc import Mapping
from typing import NamedTuple

from rnnx.cells.wiring import Slot, StageWiring
from rnnx.engines.gpu import cluster_codegen
from rnnx.engines.gpu.codegen import THREADS, Kernel, options, sources
from rnnx.engines.gpu.device import DeviceStream, Matrix, StepArgument
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

    Names of arrays: states S<k> (T + 1, m, n), saved values K<k> (T, m, n), inputs X, and those of `packing`.
    """

    def __init__(self, stream: DeviceStream, key: PassKey) -> None:
        self.stream, self.key = stream, key
        self.launch = stream.kernels(sources(key.cell), options(key.dtype))
        self.step = key.m * key.n * key.dtype.itemsize  # bytes of one state, or of one gate, in one step
        limit, sizes = stream.cluster_shared_bytes, (key.dtype.itemsize, key.n, key.m)
        self._cluster_rows = cluster_codegen.rows_per_cluster(key.cell, *sizes, limit) if limit else 0

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        raise NotImplementedError

    def _place(self, slot: Slot, before: int = 0, after: int = 1) -> StepArgument:
        """Return the address of a slot's values. At step 0, the states are S<k>[before] and S<k>[after]."""
        if slot.kind == "saved":
            return StepArgument(self.address(f"K{slot.number}"), self.step if self.key.keep else 0)
        index = after if slot.after else before
        return StepArgument(self.address(f"S{slot.number}") + index * self.step, self.step)

    def _wh(self, stage: StageWiring) -> Matrix:
        n, rows = self.key.n, stage.n_gates * self.key.n
        return Matrix(self.address(f"wh{stage.number}"), rows, n, n, self.key.dtype)

    def _bind(self, stage: StageWiring, kernel: Kernel, values: Mapping[str, StepArgument]) -> list[StepArgument]:
        """Return the arguments of a stage's kernel: `values`, and those common to all kernels."""
        key = self.key
        fixed = {"m": key.m, "n": key.n, "row": key.n_gates * key.n, "hrow": stage.n_gates * key.n}
        fixed["lengths"] = self.address("lengths")
        constants = {name: StepArgument(value) for name, value in fixed.items()}
        return kernel.bind({**values, **constants, "t": StepArgument(0, 1)})

    def _product(self, stage: StageStep, t: int) -> None:
        self.stream.gemm(stage.a.at(t), stage.b, stage.c.at(t), stage.beta)

    def _elementwise(self, stage: StageStep, t: int) -> None:
        blocks = -(-self.key.m * self.key.n // THREADS)
        arguments = [base + t * step for base, step in stage.arguments]
        self.launch(stage.kernel, (blocks, 1), (THREADS, 1), arguments)

    def _whole_pass(self, kernel: Kernel, values: Mapping[str, int]) -> None:
        """Launch a kernel of `cluster_codegen`. Arguments not in `values` are sizes, and arrays by name."""
        key, rows = self.key, self._cluster_rows
        sizes = {"n_steps": key.n_steps, "m": key.m, "n": key.n, "row": key.n_gates * key.n}
        arrays = {name: self.address(name) for name in kernel.names}
        launch = self.stream.kernels((cluster_codegen.source(key.cell),), (*options(key.dtype), f"-DRNNX_ROWS={rows}"))
        blocks = cluster_codegen.CLUSTER * -(-key.m // rows)
        shared = cluster_codegen.shared_bytes(key.cell, key.dtype.itemsize, key.n, rows)
        arguments = kernel.bind({**arrays, **sizes, **values})
        launch(kernel.name, (blocks, 1), (cluster_codegen.THREADS, 1), arguments, shared=shared)
