"""The backward pass of a cell on a stream.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx._core.layout import to_public
from rnnx.cells.parameters import StageGradients, name_gradients
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu import cluster_codegen
from rnnx.engines.gpu.codegen import backward_kernel, name_of, real_dtype
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.launches import INDEX, is_time_major, scatter_add, sum_columns, to_time_major
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, StageStep
from rnnx.engines.gpu.trace import has_direct_path
from rnnx.engines.protocol import Cotangents, Gradients


def _cotangent(slot: Slot) -> str:
    """Name of the array of a slot's cotangent. A state has one array, before and after a step."""
    return f"d_{slot.kind}{slot.number}"


class Backward(Pass):
    """A backward pass.

    Arrays of cotangents: dZ (T, m, G n), of the input sides; dZh<i> (T, m, G_i n), of the recurrent sides of stage i if
    they differ; d_state<k> and d_saved<k> (m, n), of the current step's values; dS<k> (T, m, n), the caller's.

    `given` says for which states the caller has cotangents. Those in `in_place` are not copied if they are time-major.
    `tape` maps the names of the forward pass's arrays to addresses, see `Pass`.
    """

    def __init__(
        self, stream: DeviceStream, key: PassKey, given: tuple[bool, ...], tape: Mapping[str, int],
        in_place: Sequence[Array | None] = (),
    ) -> None:  # fmt: skip
        super().__init__(stream, key)
        self._tape, self._given = tape, given
        self._in_place = {
            k: stream.address(d) for k, d in enumerate(in_place) if d is not None and is_time_major(stream, d)
        }
        dtype, n_steps, m, n = key.dtype, key.n_steps, key.m, key.n
        shapes: Shapes = {"dZ": ((n_steps, m, key.n_gates * n), dtype)}
        for stage in wiring(key.cell):
            shapes |= {_cotangent(slot): ((m, n), real_dtype(dtype)) for slot in stage.reads}
            if not stage.stage.additive:
                shapes[f"dZh{stage.number}"] = ((n_steps, m, stage.n_gates * n), dtype)
        copied = [k for k, is_given in enumerate(given) if is_given and k not in self._in_place]
        shapes |= {f"dS{k}": ((n_steps, m, n), dtype) for k in copied}
        if key.has_lengths:
            shapes["lengths"] = ((m,), INDEX)
        self.memory = Arena(stream, shapes)
        self._stages = [self._stage(stage) for stage in reversed(wiring(key.cell))]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.memory.size

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        return self._tape.get(name) or self.memory.address(name)

    def load(self, cotangents: Cotangents, lengths: Array | None) -> None:
        """Copy the cotangents of a call to the pass's memory."""
        stream, launch, key, memory = self.stream, self.launch, self.key, self.memory
        if lengths is not None:
            memory.array("lengths")[...] = lengths
        for k, d in enumerate(cotangents.final):
            target = memory.address(_cotangent(Slot("state", k)))
            to_time_major(stream, launch, d, target, (1, key.m, key.n), kernel="time_major_to_real")
        for k, d in enumerate(cotangents.states):
            if d is not None and k not in self._in_place:
                to_time_major(stream, launch, d, memory.address(f"dS{k}"), (key.n_steps, key.m, key.n))

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        if self._cluster_rows:
            states = range(len(self.key.cell.states))
            values = {f"d_given{k}": self._given_address(k) for k in states}
            values |= {f"carry{k}": self.memory.address(_cotangent(Slot("state", k))) for k in states}
            self._whole_pass(cluster_codegen.backward_kernel(self.key.cell), values)
            return
        for t in reversed(range(self.key.n_steps)):
            for stage in self._stages:
                self._elementwise(stage, t)
                self._product(stage, t)

    def _given_address(self, k: int) -> int:
        """Return the address of the caller's cotangents of state k, or 0."""
        return self._in_place.get(k) or self.memory.address(f"dS{k}")

    def _sides(self, stage: StageWiring) -> tuple[Matrix, Matrix]:
        """Return the cotangents of the input and recurrent sides of a stage."""
        key, memory, columns = self.key, self.memory, stage.n_gates * self.key.n
        dzx = memory.matrix("dZ").block(0, key.m, stage.first_gate * key.n, columns)
        dzx = dzx._replace(step=self.step * key.n_gates)
        if stage.stage.additive:
            return dzx, dzx
        return dzx, memory.matrix(f"dZh{stage.number}")._replace(rows=key.m, step=self.step * stage.n_gates)

    def _stage(self, stage: StageWiring) -> StageStep:
        key, kernel = self.key, backward_kernel(stage)
        dzx, dzh = self._sides(stage)

        def place(argument: Argument) -> StepArgument:
            role, number, slot = argument
            if slot is None:
                side = {"dzx": dzx, "dzh": dzh}[role]
                return StepArgument(side.address, side.step)
            if role == "d_given":
                return StepArgument(self._given_address(number), self.step * self._given[number])
            if role in ("d_writes", "d_reads"):
                return StepArgument(self.memory.address(_cotangent(slot)))
            return self._place(slot)

        values = {name_of(argument): place(argument) for argument in stage.backward_arguments()}
        # The product is added to the direct path that the kernel has written, if there is one.
        beta = int(has_direct_path(key.cell, stage.number) or key.has_lengths)
        target = self.memory.matrix(_cotangent(stage.operand))
        return StageStep(kernel.name, self._bind(stage, kernel, values), dzh, self._wh(stage), target, beta)

    def gradients(self, xp: Any) -> Gradients:
        """Compute the gradients after the loop, in new memory."""
        stream, key, memory, cell = self.stream, self.key, self.memory, self.key.cell
        dtype, m, n, n_x, rows = key.dtype, key.m, key.n, key.n_x, key.n_gates * key.n
        shapes: Shapes = {"w": ((rows, n + n_x), dtype), "b": ((rows,), dtype)}
        for stage in wiring(cell):
            if key.has_recurrent_bias(stage):
                shapes[f"bh{stage.number}"] = ((stage.n_gates * n,), dtype)
        shapes |= {f"ds{k}": ((m, n), dtype) for k in range(len(cell.states))}
        results = Arena(stream, shapes)
        dZ, dx, dwx = memory.matrix("dZ"), None, results.matrix("w").block(0, rows, n, n_x)
        if key.indices:
            scatter_add(self.launch, dZ, self.address("X"), dwx)
        else:
            own = Arena(stream, {"dX": ((key.n_steps, m, n_x), dtype)})
            stream.gemm(dZ, Matrix(self.address("wx"), rows, n_x, n_x, dtype), own.matrix("dX"))
            stream.gemm(dZ.T, Matrix(self.address("X"), key.n_steps * m, n_x, n_x, dtype), dwx)
            dx = to_public(xp, own.array("dX"))
        sum_columns(stream, self.launch, dZ, results.address("b"))
        for k in range(len(cell.states)):
            source, target = memory.array(_cotangent(Slot("state", k)))[None, ...], results.address(f"ds{k}")
            to_time_major(
                stream, self.launch, source, target, (1, m, n), kernel="time_major_from_real", from_time_major=True
            )
        stages = [self._stage_gradients(stage, results) for stage in wiring(cell)]
        named = name_gradients(xp, cell, key.optional_keys, stages)
        return Gradients(dx, tuple(results.array(f"ds{k}").T for k in range(len(cell.states))), named)

    def _stage_gradients(self, stage: StageWiring, results: Arena) -> StageGradients:
        """Return a stage's gradients; those of the input weights and biases are already in `results`."""
        key, n, columns = self.key, self.key.n, stage.n_gates * self.key.n
        first, n_rows, name = stage.first_gate * n, key.n_steps * key.m, f"bh{stage.number}"
        dzh = self._sides(stage)[1]._replace(rows=n_rows)
        operand = self._place(stage.operand).base
        target = results.matrix("w").block(first, columns, 0, n)
        self.stream.gemm(dzh.T, Matrix(operand, n_rows, n, n, key.dtype), target)
        if name in results:
            sum_columns(self.stream, self.launch, dzh, results.address(name))
        rows = slice(first, first + columns)
        bh = results.array(name) if name in results else None
        return StageGradients(results.array("w")[rows, :], results.array("b")[rows], bh)
