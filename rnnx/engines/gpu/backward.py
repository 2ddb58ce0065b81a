"""The backward pass of a cell on a stream.

Dimensions as in `pass_key`: T steps, m examples, n units, n_i of stage i and n_k of value k, n_x inputs; G_i gates with
a recurrent side of stage i; Z numbers in a row of dZ, see `StageWiring.blocks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx._core.arrays import INDEX
from rnnx.cells.wiring import Argument, Slot, StageWiring, wiring
from rnnx.engines.gpu import gradients
from rnnx.engines.gpu.codegen import FINAL_STATE, backward_kernel, name_of
from rnnx.engines.gpu.copies import INDICES, TO_REAL, Copy, End, Numbers, Transfer
from rnnx.engines.gpu.device import Array, DeviceStream, Matrix, Shapes, StepArgument
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

    `given` are the caller's cotangents or None. Unless captured, the pass reads those in place that are time-major, and
    is for one call. `tape` maps the names in `PassKey.tape_shapes` to addresses; with `packs`, the packed parameters
    are still to be filled.
    """

    backward = True

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
        self._kept_alive, self.packs, self._results, self._fresh = kept_alive, packs, gradients.results(key), None
        of_x: Shapes = {} if key.indices else {"dX": ((n_steps, m, key.n_x), dtype)}
        if captured:
            shapes |= of_x
        else:  # dX is computed in the memory of the results
            self._fresh, self.shapes = self._results.allocate(stream), self.shapes | of_x
            start = stream.base(self._fresh)
            self.addresses |= {name: start + self._results.views[name].offset for name in of_x}
        self.memory = self.allocate(shapes | self.group_shapes() | gradients.shapes(key))
        numbers = self._numbers = Numbers()
        before = self._cotangent_copies(numbers) + (self.parameter_copies(numbers) if packs else [])
        before += self.group_copies()
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
            self._whole_pass(self._geometry, kernel, row=self.key.dz_row)
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

    def of(self, cotangents: Cotangents, lengths: Array | None, parameters: Mapping[str, Array]) -> Gradients:
        """Run the pass for a call, with parameters if it packs them; return the gradients."""
        given = [] if lengths is None else [lengths]
        given += cotangents.final
        given += [cotangents.states[k] for k in self._copied]
        if self.packs:
            given += [parameters[name] for name in self.key.parameter_keys]
        numbers = self._numbers.of(self.stream, given)
        memory = self._results.allocate(self.stream) if self._fresh is None else self._fresh
        numbers.append(self.stream.base(memory))
        self.run(numbers)
        found = self._results.arrays(self.stream, memory)
        ds0 = tuple([found.pop(f"ds{k}") for k in self._states])
        d_inputs = tuple([found.pop(f"dE{k}") for k in range(len(self.key.cell.inputs))])
        return Gradients(found.pop("dX", None), ds0, found, d_inputs)

    def _columns(self, first: int, count: int) -> Matrix:
        """Return columns of dZ, with one row per step and example."""
        return self.matrix("dZ").block(0, self.key.n_steps * self.key.m, first, count)

    def _products(self) -> None:
        """Compute the gradients of the parameters and inputs after the loop, see `gradients`."""
        key, layout, partial = self.key, self.key.layout, self.address("sums")
        self._input_products()
        for (column, target), count in layout.summed:
            of_biases = self.address("db") + target * key.dtype.itemsize
            self.sum_columns(self._columns(column, count), of_biases, partial)
        for stage in wiring(key.cell):
            if not stage.n_zh:
                continue
            n_rows, n_h, n = key.n_steps * key.m, stage.columns(key.n), stage.operand_units(key.n)
            dzh = self._recurrent_side(stage)._replace(rows=n_rows)
            operand = Matrix(self._place(stage.operand).base, n_rows, n, n, key.dtype)
            dw = self.matrix("dw").block(layout.gates[stage.number], dzh.columns, key.most_columns - n_h, n_h)
            for k, (dz, _, part) in enumerate(self._blocks(stage, dzh, operand)):
                self.stream.gemm(dz.T, part, dw.block(k * dz.columns, dz.columns, 0, n_h))
            if key.has_recurrent_bias(stage):
                self.sum_columns(dzh, self.address(f"dbh{stage.number}"), partial)

    def _input_products(self) -> None:
        """Compute the gradients of the input weights and of x."""
        stream, key = self.stream, self.key
        for i, ((column, row, of_gates), count) in enumerate(key.layout.inputs):  # dX is their sum
            dzx = self._columns(column, count)
            dwx = self.matrix("dw").block(of_gates, count, key.most_columns, key.n_x)
            if key.indices:
                self.scatter_add(dzx, self.address("X"), dwx)
            else:
                wx = self.matrix("wx").block(row, count, 0, key.n_x)
                stream.gemm(dzx, wx, self.matrix("dX"), int(i > 0))
                stream.gemm(dzx.T, self.matrix("X"), dwx)
