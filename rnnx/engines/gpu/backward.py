"""The backward pass of a cell on a stream.

Dimensions: T steps, m examples, n units, n_x inputs; G gates of all stages, G_i gates with a recurrent side of stage i;
B blocks of a row of dZ, see `StageWiring.blocks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx._core.layout import to_public
from rnnx.cells.parameters import StageGradients, name_gradients
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu.codegen import backward_kernel, name_of
from rnnx.engines.gpu.device import INDEX, Arena, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.kernel import real_dtype
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, Product, StageStep
from rnnx.engines.gpu.persistent import backward_kernel as persistent_kernel
from rnnx.engines.gpu.trace import ZERO, trace_backward
from rnnx.engines.protocol import Cotangents, Gradients


def _cotangent(slot: Slot) -> str:
    """Name of the array of a slot's cotangent. A state has one array, before and after a step."""
    return f"d_{slot.kind}{slot.number}"


class Backward(Pass):
    """A backward pass.

    Arrays of cotangents: dZ (T, m, B n), of the sides and vectors; dZh<i> (T, m, G_i n), of the recurrent sides of a
    stage i that is not additive; dE<k> (T, m, n), of the extra inputs; d_state<k> and d_saved<k> (m, n), of the current
    step's values; dS<k> (T, m, n), the caller's; with lengths, d_final0 (m, n), the caller's for the final state.

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
        shapes: Shapes = {"dZ": ((n_steps, m, key.n_dz * n), dtype)} if key.n_dz else {}
        for stage in wiring(key.cell):
            shapes |= {_cotangent(slot): ((m, n), real_dtype(dtype)) for slot in stage.reads}
            if stage.n_zh and not stage.stage.additive:
                shapes[f"dZh{stage.number}"] = ((n_steps, m, stage.n_zh * n), dtype)
        shapes |= {f"dE{k}": ((n_steps, m, n), dtype) for k in range(len(key.cell.inputs))}
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
        if self._geometry:
            kernel = persistent_kernel(self.key.cell, self._geometry)
            self._whole_pass(self._geometry, kernel, backward=True, row=self.key.n_dz * self.key.n)
            return
        for t in reversed(range(self.key.n_steps)):
            for stage in self._stages:
                self._elementwise(stage, t)
                self._product(stage, t)

    def _sides(self, stage: StageWiring) -> dict[str, StepArgument]:
        """Return the addresses of the stage's blocks of dZ and dZh<i>, by role."""
        key, size = self.key, self._state_bytes
        start = key.layout.dz[stage.number] * key.n * key.dtype.itemsize
        sides = {"dzx": StepArgument(self.address("dZ") + start, size * key.n_dz)}
        return sides | {"dzh": StepArgument(self.address(f"dZh{stage.number}"), size * stage.n_zh)}

    def _recurrent_side(self, stage: StageWiring) -> Matrix:
        """Return the cotangents of the recurrent sides of a stage, in one step."""
        key, columns = self.key, stage.n_zh * self.key.n
        (address, step), stride = self._sides(stage)["dzh"], columns
        if stage.stage.additive:
            (address, step), stride = self._sides(stage)["dzx"], key.n_dz * key.n
        return Matrix(address, key.m, columns, stride, key.dtype, step=step)

    def _stage(self, stage: StageWiring) -> StageStep:
        key, kernel, sides = self.key, backward_kernel(stage), self._sides(stage)

        def place(argument: Argument) -> StepArgument | int:
            role, number, slot = argument
            if slot is None:
                return sides[role]
            if role == "d_given":
                given = self.address(f"dS{number}")
                return StepArgument(given, self._state_bytes) if given else 0
            if role in ("d_writes", "d_reads"):
                return self.address(_cotangent(slot))
            if role == "d_inputs":
                return StepArgument(self.address(f"dE{slot.number}"), self._state_bytes)
            return self._place(slot)

        values = {name_of(argument): place(argument) for argument in stage.backward_arguments()}
        if stage.is_last:
            values["d_final0"] = self.address("d_final0")
        product = None
        if stage.n_zh:
            # It is added to the direct path that the kernel has written, if there is one.
            beta = int(trace_backward(stage)[2][0] != ZERO or key.has_lengths)
            wh, target = self.matrix(f"wh{stage.number}"), self.matrix(_cotangent(stage.operand))
            product = Product(self._recurrent_side(stage), wh, target, beta)
        return StageStep(self._size(kernel), self._bind(stage, kernel, key.n_dz, values), product)

    def gradients(self, xp: Any) -> Gradients:
        """Compute the gradients after the loop, in new memory."""
        key, cell, states = self.key, self.key.cell, range(len(self.key.cell.states))
        dtype, m, n = key.dtype, key.m, key.n
        shapes: Shapes = {"w": ((len(cell.gates) * n, n + key.n_x), dtype), "b": ((key.layout.sums[-1] * n,), dtype)}
        shapes |= {name: shape for name, shape in self.shapes.items() if name.startswith("bh")}
        results = Arena(self.stream, shapes | {f"ds{k}": ((m, n), dtype) for k in states})
        dx = self._input_gradients(xp, results)
        for (block, target), count in key.layout.summed:
            of_biases = results.addresses["b"] + target * n * dtype.itemsize
            self.sum_columns(self._columns(block, count), of_biases)
        if key.has_lengths:
            d0, final, lengths = map(self.memory.array, (_cotangent(Slot("state", 0)), "d_final0", "lengths"))
            xp.copyto(d0, final, where=lengths[:, None] == 0)
        for k in states:
            source, target = self.memory.array(_cotangent(Slot("state", k))).T, results.addresses[f"ds{k}"]
            self.to_time_major(source, target, (1, m, n), kernel="time_major_from_real")
        stages = [self._stage_gradients(stage, results) for stage in wiring(cell)]
        named = name_gradients(xp, cell, key.optional_keys, stages)
        d_inputs = tuple(to_public(xp, self.memory.array(f"dE{k}").copy()) for k in range(len(cell.inputs)))
        return Gradients(dx, tuple(results.array(f"ds{k}").T for k in states), named, d_inputs)

    def _columns(self, block: int, count: int) -> Matrix:
        """Return blocks of dZ, with one row per step and example."""
        key = self.key
        return self.matrix("dZ").block(0, key.n_steps * key.m, block * key.n, count * key.n)

    def _input_gradients(self, xp: Any, results: Arena) -> Array | None:
        """Compute the gradients of the input weights; return those of x, or None for index inputs."""
        stream, key, n, spans = self.stream, self.key, self.key.n, self.key.layout.inputs
        own = None if key.indices else Arena(stream, {"dX": ((key.n_steps, key.m, key.n_x), key.dtype)})
        for i, ((block, row, gate), count) in enumerate(spans):  # dX is their sum
            dzx, dwx = self._columns(block, count), results.matrix("w").block(gate * n, count * n, n, key.n_x)
            if own is None:
                self.scatter_add(dzx, self.address("X"), dwx)
            else:
                wx = self.matrix("wx").block(row * n, count * n, 0, key.n_x)
                stream.gemm(dzx, wx, own.matrix("dX"), int(i > 0))
                stream.gemm(dzx.T, self.matrix("X"), dwx)
        if own is None:
            return None
        dx = own.array("dX")
        if not spans:
            dx[...] = 0
        elif key.has_lengths:  # zero times an infinite weight is NaN
            shape = (key.n_steps, key.m, key.n_x)
            self.to_time_major(to_public(xp, dx), own.addresses["dX"], shape, self.address("lengths"))
        return to_public(xp, dx)

    def _stage_gradients(self, stage: StageWiring, results: Arena) -> StageGradients:
        """Return a stage's gradients; those of input weights, biases and vectors are already in `results`."""
        key, n, number = self.key, self.key.n, stage.number
        n_rows, columns, bh = key.n_steps * key.m, stage.n_zh * self.key.n, None
        if stage.n_zh:
            dzh = self._recurrent_side(stage)._replace(rows=n_rows)
            operand = Matrix(self._place(stage.operand).base, n_rows, n, n, key.dtype)
            self.stream.gemm(dzh.T, operand, results.matrix("w").block(stage.first_gate * n, columns, 0, n))
            if key.has_recurrent_bias(stage):
                self.sum_columns(dzh, results.addresses[f"bh{number}"])
                bh = results.array(f"bh{number}")
        rows = slice(stage.first_gate * n, (stage.first_gate + stage.n_gates) * n)
        sums = slice(key.layout.sums[number] * n, key.layout.sums[number + 1] * n)
        return StageGradients(results.array("w")[rows, :], results.array("b")[sums], bh)
