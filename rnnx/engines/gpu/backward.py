"""The backward pass of a cell on a stream.

Dimensions: T steps, m examples, n units, n_x inputs; G gates of all stages, G_i gates with a recurrent side of stage i;
B blocks of a row of dZ, see `StageWiring.blocks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu import gradients
from rnnx.engines.gpu.codegen import backward_kernel, name_of
from rnnx.engines.gpu.copies import INDICES, TO_REAL, Copy, End, Numbers, Transfer
from rnnx.engines.gpu.device import INDEX, Array, DeviceStream, Matrix, Shapes, StepArgument
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

    `given` are the caller's cotangents or None. Unless captured, the pass reads those in place that are time-major, and
    is for one call.
    `tape` maps the names in `PassKey.tape_shapes` to addresses; with `packs`, the packed parameters are
    still to be filled.
    """

    def __init__(
        self, stream: DeviceStream, key: PassKey, given: Sequence[Array | None], tape: Mapping[str, int],
        *, captured: bool = False, packs: bool = False, kept_alive: Any = None,
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
        self._kept_alive, self._packs, self._results, self._fresh = kept_alive, packs, gradients.results(key), None
        of_x: Shapes = {} if key.indices else {"dX": ((n_steps, m, key.n_x), dtype)}
        if captured:
            shapes |= of_x
        else:  # dX is computed in the memory of the results
            self._fresh, self.shapes = self._results.allocate(stream), self.shapes | of_x
            start = stream.base(self._fresh)
            self.addresses |= {name: start + self._results.views[name].offset for name in of_x}
        self.memory = self.allocate(shapes | gradients.shapes(key))
        numbers = Numbers()
        before = self._cotangent_copies(numbers) + (self.parameter_copies(numbers) if packs else [])
        (out,), arrays = numbers.next(1), (self.address, self.shapes)
        after = gradients.copies(key, self._results, *arrays, out, in_place=not captured)
        self.transfer = Transfer(stream, self.launch, numbers, before, after)
        self._stages = [self._stage(stage) for stage in reversed(wiring(key.cell))]

    def _cotangent_copies(self, numbers: Numbers) -> list[Copy]:
        """Return the copies of the lengths and the caller's cotangents."""
        key, copies = self.key, list[Copy]()
        if key.has_lengths:
            target = End(self.address("lengths"), (INDEX.itemsize,))
            copies.append(Copy(numbers.array(1), target, (key.m, 1, 1), INDICES))
        for k in self._states:
            source = numbers.array(2)
            for name in (_cotangent(Slot("state", k)), *(["d_final0"] if key.has_lengths and not k else [])):
                shape, dtype = self.shapes[name]
                target = End.time_major(self.address(name), shape, dtype)
                copies.append(Copy(source, target, (shape[1], shape[0], 1), TO_REAL))
        for k in self._copied:
            (n_steps, m, n), dtype = self.shapes[f"dS{k}"]
            target = End.time_major(self.address(f"dS{k}"), (n_steps, m, n), dtype)
            copies.append(Copy(numbers.array(3), target, (n, m, n_steps)))
        return copies

    def _numbers(self, cotangents: Cotangents, lengths: Array | None, parameters: Mapping[str, Array]) -> list[int]:
        """Return the numbers of a call, without that of its results."""
        place = self.stream.place
        numbers = [] if lengths is None else [*place(lengths)]
        for final in cotangents.final:
            numbers += (0, 0, 0) if final is None else place(final)
        for k in self._copied:
            numbers += place(cotangents.states[k])
        return numbers + (self.parameter_numbers(parameters) if self._packs else [])

    def work(self) -> None:
        """See `Pass`."""
        self.transfer.copy(0)
        self.loop()
        self._products()
        self.transfer.copy(1)

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
        products = []
        if stage.n_zh:
            # The first is added to the direct path that the kernel has written, if there is one.
            beta = int(trace_backward(stage)[2][0] != ZERO or key.has_lengths)
            parts = self._blocks(stage, self._recurrent_side(stage), self.matrix(_cotangent(stage.operand)))
            products = [Product(dz, wh, d, 1 if k >= stage.heads else beta) for k, (dz, wh, d) in enumerate(parts)]
        return StageStep(self._size(kernel), self._bind(stage, kernel, key.n_dz, values), products)

    def of(self, cotangents: Cotangents, lengths: Array | None, parameters: Mapping[str, Array]) -> Gradients:
        """Run the pass for a call; return the gradients."""
        memory = self._results.allocate(self.stream) if self._fresh is None else self._fresh
        self.run([*self._numbers(cotangents, lengths, parameters), self.stream.base(memory)])
        found = self._results.arrays(self.stream, memory)
        ds0 = tuple([found.pop(f"ds{k}") for k in self._states])
        d_inputs = tuple([found.pop(f"dE{k}") for k in range(len(self.key.cell.inputs))])
        return Gradients(found.pop("dX", None), ds0, found, d_inputs)

    def _columns(self, block: int, count: int) -> Matrix:
        """Return blocks of dZ, with one row per step and example."""
        key = self.key
        return self.matrix("dZ").block(0, key.n_steps * key.m, block * key.n, count * key.n)

    def _products(self) -> None:
        """Compute the gradients of the parameters and inputs after the loop."""
        key, n, partial = self.key, self.key.n, self.address("sums")
        self._input_products()
        for (block, target), count in key.layout.summed:
            self.sum_columns(self._columns(block, count), self.address("db") + target * n * key.dtype.itemsize, partial)
        for stage in wiring(key.cell):
            if not stage.n_zh:
                continue
            n_rows, n_h = key.n_steps * key.m, n // stage.heads
            dzh = self._recurrent_side(stage)._replace(rows=n_rows)
            operand = Matrix(self._place(stage.operand).base, n_rows, n, n, key.dtype)
            # Of the columns of w, the last ones before those of the input weights.
            dw = self.matrix("dw").block(stage.first_gate * n, stage.n_zh * n, n - n_h, n_h)
            for k, (dz, _, part) in enumerate(self._blocks(stage, dzh, operand)):
                self.stream.gemm(dz.T, part, dw.block(k * dz.columns, dz.columns, 0, n_h))
            if key.has_recurrent_bias(stage):
                self.sum_columns(dzh, self.address(f"dbh{stage.number}"), partial)

    def _input_products(self) -> None:
        """Compute the gradients of the input weights and of x."""
        stream, key, n = self.stream, self.key, self.key.n
        for i, ((block, row, gate), count) in enumerate(key.layout.inputs):  # dX is their sum
            dzx, dwx = self._columns(block, count), self.matrix("dw").block(gate * n, count * n, n, key.n_x)
            if key.indices:
                self.scatter_add(dzx, self.address("X"), dwx)
            else:
                wx = self.matrix("wx").block(row * n, count * n, 0, key.n_x)
                stream.gemm(dzx, wx, self.matrix("dX"), int(i > 0))
                stream.gemm(dzx.T, self.matrix("X"), dwx)
