"""What the forward and the backward pass share: the kernels of a cell, and the work of one stage in one step."""

from collections.abc import Mapping
from typing import NamedTuple

from rnnx.cells.wiring import StageWiring
from rnnx.engines.gpu import cluster_codegen
from rnnx.engines.gpu.codegen import THREADS, Parameters, bind, options, sources
from rnnx.engines.gpu.device import DeviceStream, Matrix, StepArgument, StepMatrix
from rnnx.engines.gpu.pass_key import PassKey


class StageStep(NamedTuple):
    """The work of a stage in every step: an elementwise kernel, and the product C = A B + beta C."""

    kernel: str
    arguments: list[StepArgument]
    a: StepMatrix
    b: Matrix
    c: StepMatrix
    beta: int


class Pass:
    """The kernels of a cell, launched step by step, or once for a whole pass on thread block clusters."""

    def __init__(self, stream: DeviceStream, key: PassKey) -> None:
        self.stream, self.key = stream, key
        self.launch = stream.kernels(sources(key.cell), options(key.dtype))
        self.step = key.m * key.n * key.dtype.itemsize  # bytes of a state
        self.row_step = self.step * key.n_gates  # bytes of all gates
        limit = stream.cluster_shared_bytes
        self._rows = 0  # examples per cluster; 0: step by step
        if limit:
            self._rows = cluster_codegen.rows_per_cluster(key.cell, key.dtype.itemsize, key.n, key.m, limit)

    def _sizes(self, stage: StageWiring) -> dict[str, StepArgument]:
        key = self.key
        sizes = {"m": key.m, "n": key.n, "row": key.n_gates * key.n, "hrow": stage.n_gates * key.n}
        return {"t": StepArgument(0, 1), **{name: StepArgument(size) for name, size in sizes.items()}}

    def _product(self, stage: StageStep, t: int) -> None:
        self.stream.gemm(stage.a.at(t), stage.b, stage.c.at(t), stage.beta)

    def _elementwise(self, stage: StageStep, t: int) -> None:
        blocks = -(-self.key.m * self.key.n // THREADS)
        arguments = [base + t * step for base, step in stage.arguments]
        self.launch(stage.kernel, (blocks, 1), (THREADS, 1), arguments)

    def _whole_pass(self, kernel: str, parameters: Parameters, values: Mapping[str, int]) -> None:
        """Launch a kernel of `cluster_codegen`."""
        key, rows = self.key, self._rows
        sizes = {"n_steps": key.n_steps, "m": key.m, "n": key.n, "row": key.n_gates * key.n}
        launch = self.stream.kernels((cluster_codegen.source(key.cell),), (*options(key.dtype), f"-DRNNX_ROWS={rows}"))
        blocks = cluster_codegen.CLUSTER * -(-key.m // rows)
        shared = cluster_codegen.shared_bytes(key.cell, key.dtype.itemsize, key.n, rows)
        launch(kernel, (blocks, 1), (cluster_codegen.THREADS, 1), bind(parameters, {**values, **sizes}), shared=shared)
