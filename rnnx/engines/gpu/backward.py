"""The backward pass of a cell on a stream.

Dimensions as in `pass_key`: T steps, m examples, n units, n_i of stage i and n_k of value k, n_x inputs; G_i gates with
a recurrent side of stage i; Z numbers in a row of dZ, see `StageWiring.blocks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx._core.layout import to_public
from rnnx.cells.parameters import StageGradients, name_gradients
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu.codegen import FINAL_STATE, backward_kernel, name_of
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

    Arrays of cotangents: dZ (T, m, Z), of the sides and vectors; dZh<i> (T, m, G_i n_i), of the recurrent sides of a
    stage i that is not additive; dE<k> (T, m, n_k), of the extra inputs; d_state<k> and d_saved<k> (m, n_k), of the
    current step's values; dS<k> (T, m, n_k), the caller's; with lengths, d_final0 (m, n), the caller's for the final
    state.

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
        shapes: Shapes = {"dZ": ((n_steps, m, key.dz_row), dtype)} if key.dz_row else {}
        for stage in wiring(key.cell):
            units = stage.units(n)
            shapes |= {_cotangent(slot): ((m, units), real_dtype(dtype)) for slot in stage.reads}
            if stage.n_zh and not stage.stage.additive:
                shapes[f"dZh{stage.number}"] = ((n_steps, m, stage.n_zh * units), dtype)
        shapes |= {f"dE{k}": self.shapes[f"E{k}"] for k in range(len(key.cell.inputs))}
        shapes |= {f"dS{k}": ((n_steps, m, present[k].shape[0]), dtype) for k in self._copied}
        if key.has_lengths:
            shapes |= {"lengths": ((m,), INDEX), "d_final0": ((m, n), real_dtype(dtype))}
        self.memory = self.allocate(shapes)
        self._stages = [self._stage(stage) for stage in reversed(wiring(key.cell))]

    def load(self, cotangents: Cotangents, lengths: Array | None) -> None:
        """Copy the cotangents of a call to the pass's memory."""
        if lengths is not None:
            self.memory.array("lengths")[...] = lengths
        for k, d in enumerate(cotangents.final):
            target = _cotangent(Slot("state", k))
            shape = (1, *self.shapes[target][0])
            self.to_time_major(d, self.address(target), shape, kernel="time_major_to_real")
        if lengths is not None:
            self.memory.array("d_final0")[...] = self.memory.array(_cotangent(Slot("state", 0)))
        for k in self._copied:
            self.to_time_major(cotangents.states[k], self.address(f"dS{k}"), self.shapes[f"dS{k}"][0])

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        if self._geometry:
            kernel = persistent_kernel(self.key.cell, self._geometry)
            self._whole_pass(self._geometry, kernel, backward=True, row=self.key.dz_row)
            return
        for t in reversed(range(self.key.n_steps)):
            for stage in self._stages:
                self._elementwise(stage, t)
                self._product(stage, t)

    def _sides(self, stage: StageWiring) -> dict[str, StepArgument]:
        """Return the addresses of the stage's blocks of dZ and dZh<i>, by role."""
        key, row = self.key, stage.n_zh * stage.units(self.key.n)
        start = key.layout.dz[stage.number] * key.dtype.itemsize
        sides = {"dzx": StepArgument(self.address("dZ") + start, self._bytes(key.dz_row))}
        return sides | {"dzh": StepArgument(self.address(f"dZh{stage.number}"), self._bytes(row))}

    def _recurrent_side(self, stage: StageWiring) -> Matrix:
        """Return the cotangents of the recurrent sides of a stage, in one step."""
        key, columns = self.key, stage.n_zh * stage.units(self.key.n)
        (address, step), stride = self._sides(stage)["dzh"], columns
        if stage.stage.additive:
            (address, step), stride = self._sides(stage)["dzx"], key.dz_row
        return Matrix(address, key.m, columns, stride, key.dtype, step=step)

    def _stage(self, stage: StageWiring) -> StageStep:
        key, kernel, sides = self.key, backward_kernel(stage), self._sides(stage)
        size = self._bytes(stage.units(key.n))

        def place(argument: Argument) -> StepArgument | int:
            role, _, slot = argument
            if slot is None:
                return sides[role]
            if role == "d_given":
                given = self.address(f"dS{slot.number}")
                return StepArgument(given, size) if given else 0
            if role in ("d_writes", "d_reads"):
                return self.address(_cotangent(slot))
            if role == "d_inputs":
                return StepArgument(self.address(f"dE{slot.number}"), size)
            return self._place(slot)

        values = {name_of(argument): place(argument) for argument in stage.backward_arguments()}
        if FINAL_STATE in stage.writes:
            values["d_final0"] = self.address("d_final0")
        products = []
        if stage.n_zh:
            # The first is added to the direct path that a kernel has written, if there is one.
            direct = stage.operand not in stage.reads or trace_backward(stage)[2][0] != ZERO
            beta = int(direct or key.has_lengths)
            parts = self._blocks(stage, self._recurrent_side(stage), self.matrix(_cotangent(stage.operand)))
            products = [Product(dz, wh, d, 1 if k >= stage.heads else beta) for k, (dz, wh, d) in enumerate(parts)]
        return StageStep(self._size(stage, kernel), self._bind(stage, kernel, key.dz_row, values), products)

    def gradients(self, xp: Any) -> Gradients:
        """Compute the gradients after the loop, in new memory."""
        key, cell, layout, dtype = self.key, self.key.cell, self.key.layout, self.key.dtype
        shapes: Shapes = {
            "w": ((layout.gates[-1], key.most_columns + key.n_x), dtype),
            "b": ((layout.sums[-1],), dtype),
        }
        shapes |= {name: shape for name, shape in self.shapes.items() if name.startswith("bh")}
        units = dict(enumerate(key.sizes(cell.states)))
        results = Arena(self.stream, shapes | {f"ds{k}": ((key.m, n), dtype) for k, n in units.items()})
        dx = self._input_gradients(xp, results)
        for (column, target), count in layout.summed:
            of_biases = results.addresses["b"] + target * dtype.itemsize
            self.sum_columns(self._columns(column, count), of_biases)
        if key.has_lengths:
            d0, final, lengths = map(self.memory.array, (_cotangent(Slot("state", 0)), "d_final0", "lengths"))
            xp.copyto(d0, final, where=lengths[:, None] == 0)
        for k, n in units.items():
            source, target = self.memory.array(_cotangent(Slot("state", k))).T, results.addresses[f"ds{k}"]
            self.to_time_major(source, target, (1, key.m, n), kernel="time_major_from_real")
        stages = [self._stage_gradients(stage, results) for stage in wiring(cell)]
        named = name_gradients(xp, cell, key.optional_keys, stages, key.n_x)
        d_inputs = tuple(to_public(xp, self.memory.array(f"dE{k}").copy()) for k in range(len(cell.inputs)))
        return Gradients(dx, tuple(results.array(f"ds{k}").T for k in units), named, d_inputs)

    def _columns(self, first: int, count: int) -> Matrix:
        """Return columns of dZ, with one row per step and example."""
        return self.matrix("dZ").block(0, self.key.n_steps * self.key.m, first, count)

    def _input_gradients(self, xp: Any, results: Arena) -> Array | None:
        """Compute the gradients of the input weights; return those of x, or None for index inputs."""
        stream, key, spans = self.stream, self.key, self.key.layout.inputs
        own = None if key.indices else Arena(stream, {"dX": ((key.n_steps, key.m, key.n_x), key.dtype)})
        for i, ((column, row, of_gates), count) in enumerate(spans):  # dX is their sum
            dzx = self._columns(column, count)
            dwx = results.matrix("w").block(of_gates, count, key.most_columns, key.n_x)
            if own is None:
                self.scatter_add(dzx, self.address("X"), dwx)
            else:
                wx = self.matrix("wx").block(row, count, 0, key.n_x)
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
        key, layout, number = self.key, self.key.layout, stage.number
        first, n_rows, bh = layout.gates[number], key.n_steps * key.m, None
        n_h = stage.columns(key.n)  # of the columns of w, the last ones before those of the input weights
        start = key.most_columns - n_h
        if stage.n_zh:
            dzh = self._recurrent_side(stage)._replace(rows=n_rows)
            n = stage.operand_units(key.n)
            operand = Matrix(self._place(stage.operand).base, n_rows, n, n, key.dtype)
            dw = results.matrix("w").block(first, dzh.columns, start, n_h)
            for k, (dz, _, part) in enumerate(self._blocks(stage, dzh, operand)):
                self.stream.gemm(dz.T, part, dw.block(k * dz.columns, dz.columns, 0, n_h))
            if key.has_recurrent_bias(stage):
                self.sum_columns(dzh, results.addresses[f"bh{number}"])
                bh = results.array(f"bh{number}")
        sums = slice(layout.sums[number], layout.sums[number + 1])
        dw = results.array("w")[first : layout.gates[number + 1], start:]
        return StageGradients(dw, results.array("b")[sums], bh)
