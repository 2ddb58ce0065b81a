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
from rnnx.engines.gpu.device import INDEX, Arena, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, StageStep
from rnnx.engines.gpu.trace import ZERO, trace_backward
from rnnx.engines.protocol import Cotangents, Gradients


def _cotangent(slot: Slot) -> str:
    """Name of the array of a slot's cotangent. A state has one array, before and after a step."""
    return f"d_{slot.kind}{slot.number}"


class Backward(Pass):
    """A backward pass.

    Arrays of cotangents: dZ (T, m, G n), of the input sides; dZh<i> (T, m, G_i n), of the recurrent sides of stage i if
    they differ; d_state<k> and d_saved<k> (m, n), of the current step's values; dS<k> (T, m, n), the caller's; with
    lengths, d_final0 (m, n), the caller's for the final state.

    `given` are the caller's cotangents or None. Unless captured, the pass reads those in place that are time-major.
    `tape` maps the names in `PassKey.tape_shapes` to addresses.
    """

    def __init__(
        self, stream: DeviceStream, key: PassKey, given: Sequence[Array | None], tape: Mapping[str, int],
        *, captured: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(stream, key, captured=captured)
        self.addresses |= tape
        present = {k: d for k, d in enumerate(given) if d is not None}
        self._copied = [k for k, d in present.items() if captured or not self.is_time_major(d)]
        self.addresses |= {f"dS{k}": stream.address(d) for k, d in present.items() if k not in self._copied}
        dtype, n_steps, m, n = key.dtype, key.n_steps, key.m, key.n
        shapes: Shapes = {"dZ": ((n_steps, m, key.n_gates * n), dtype)}
        for stage in wiring(key.cell):
            shapes |= {_cotangent(slot): ((m, n), real_dtype(dtype)) for slot in stage.reads}
            if not stage.stage.additive:
                shapes[f"dZh{stage.number}"] = ((n_steps, m, stage.n_gates * n), dtype)
        shapes |= {f"dS{k}": ((n_steps, m, n), dtype) for k in self._copied}
        if key.has_lengths:
            shapes |= {"lengths": ((m,), INDEX), "d_final0": ((m, n), real_dtype(dtype))}
        self.memory = self.allocate(shapes)
        self._stages = [self._stage(stage) for stage in reversed(wiring(key.cell))]

    def load(self, cotangents: Cotangents, lengths: Array | None) -> None:
        """Copy the cotangents of a call to the pass's memory."""
        key = self.key
        if lengths is not None:
            self.memory.array("lengths")[...] = lengths
        for k, d in enumerate(cotangents.final):
            target = self.address(_cotangent(Slot("state", k)))
            self.to_time_major(d, target, (1, key.m, key.n), kernel="time_major_to_real")
        if lengths is not None:
            self.memory.array("d_final0")[...] = self.memory.array(_cotangent(Slot("state", 0)))
        for k in self._copied:
            target = self.address(f"dS{k}")
            self.to_time_major(cotangents.states[k], target, (key.n_steps, key.m, key.n))

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        if self._cluster_rows:
            self._whole_pass(cluster_codegen.backward_kernel(self.key.cell))
            return
        for t in reversed(range(self.key.n_steps)):
            for stage in self._stages:
                self._elementwise(stage, t)
                self._product(stage, t)

    def _sides(self, stage: StageWiring) -> dict[str, Matrix]:
        """Return the cotangents of the input and recurrent sides of a stage."""
        key, size = self.key, self._state_bytes
        dzx = self.matrix("dZ").block(0, key.m, stage.first_gate * key.n, stage.n_gates * key.n)
        dzh = dzx = dzx._replace(step=size * key.n_gates)
        if not stage.stage.additive:
            dzh = self.matrix(f"dZh{stage.number}")._replace(rows=key.m, step=size * stage.n_gates)
        return {"dzx": dzx, "dzh": dzh}

    def _stage(self, stage: StageWiring) -> StageStep:
        key, kernel, sides = self.key, backward_kernel(stage), self._sides(stage)

        def place(argument: Argument) -> StepArgument | int:
            role, number, slot = argument
            if slot is None:
                return StepArgument(sides[role].address, sides[role].step)
            if role == "d_given":
                given = self.address(f"dS{number}")
                return StepArgument(given, self._state_bytes) if given else 0
            if role in ("d_writes", "d_reads"):
                return self.address(_cotangent(slot))
            return self._place(slot)

        values = {name_of(argument): place(argument) for argument in stage.backward_arguments()}
        if stage.is_last:
            values["d_final0"] = self.address("d_final0")
        # The product is added to the direct path that the kernel has written, if there is one.
        beta = int(trace_backward(stage)[3][0] != ZERO or key.has_lengths)
        arguments, wh = self._bind(stage, kernel, values), self.matrix(f"wh{stage.number}")
        return StageStep(kernel.name, arguments, sides["dzh"], wh, self.matrix(_cotangent(stage.operand)), beta)

    def gradients(self, xp: Any) -> Gradients:
        """Compute the gradients after the loop, in new memory."""
        stream, key, states = self.stream, self.key, range(len(self.key.cell.states))
        dtype, m, n, n_x, rows = key.dtype, key.m, key.n, key.n_x, key.n_gates * key.n
        shapes: Shapes = {"w": ((rows, n + n_x), dtype), "b": ((rows,), dtype)}
        shapes |= {name: shape for name, shape in self.shapes.items() if name.startswith("bh")}
        results = Arena(stream, shapes | {f"ds{k}": ((m, n), dtype) for k in states})
        dZ, dx, dwx = self.matrix("dZ"), None, results.matrix("w").block(0, rows, n, n_x)
        if key.indices:
            self.scatter_add(dZ, self.address("X"), dwx)
        else:
            own = Arena(stream, {"dX": ((key.n_steps, m, n_x), dtype)})
            stream.gemm(dZ, self.matrix("wx"), own.matrix("dX"))
            stream.gemm(dZ.T, self.matrix("X"), dwx)
            dx = to_public(xp, own.array("dX"))
            if key.has_lengths:  # zero times an infinite weight is NaN
                self.to_time_major(dx, own.addresses["dX"], (key.n_steps, m, n_x), self.address("lengths"))
        self.sum_columns(dZ, results.addresses["b"])
        if key.has_lengths:
            d0, final, lengths = map(self.memory.array, (_cotangent(Slot("state", 0)), "d_final0", "lengths"))
            xp.copyto(d0, final, where=lengths[:, None] == 0)
        for k in states:
            source, target = self.memory.array(_cotangent(Slot("state", k))).T, results.addresses[f"ds{k}"]
            self.to_time_major(source, target, (1, m, n), kernel="time_major_from_real")
        stages = [self._stage_gradients(stage, results) for stage in wiring(key.cell)]
        named = name_gradients(xp, key.cell, key.optional_keys, stages)
        return Gradients(dx, tuple(results.array(f"ds{k}").T for k in states), named)

    def _stage_gradients(self, stage: StageWiring, results: Arena) -> StageGradients:
        """Return a stage's gradients; those of the input weights and biases are already in `results`."""
        key, n, first, columns = self.key, self.key.n, stage.first_gate * self.key.n, stage.n_gates * self.key.n
        n_rows, rows, bh = key.n_steps * key.m, slice(first, first + columns), None
        dzh = self._sides(stage)["dzh"]._replace(rows=n_rows)
        operand = Matrix(self._place(stage.operand).base, n_rows, n, n, key.dtype)
        self.stream.gemm(dzh.T, operand, results.matrix("w").block(first, columns, 0, n))
        if key.has_recurrent_bias(stage):
            name = f"bh{stage.number}"
            self.sum_columns(dzh, results.addresses[name])
            bh = results.array(name)
        return StageGradients(results.array("w")[rows, :], results.array("b")[rows], bh)
