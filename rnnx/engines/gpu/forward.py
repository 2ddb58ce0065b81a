"""The forward pass of a cell on a stream.

Dimensions as in `pass_key`: T steps, m examples, n units, n_i of stage i; G_i gates with a recurrent side of stage i; X
input sides of all stages.
"""

from collections.abc import Sequence
from typing import Any

from rnnx._core.arrays import INDEX
from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.codegen import forward_arrays, forward_kernel, forward_sides, name_of
from rnnx.engines.gpu.copies import INDICES, SAME, Copy, End, Number, Numbers, Transfer
from rnnx.engines.gpu.device import Array, DeviceStream, Matrix, Results, Shapes, StepArgument
from rnnx.engines.gpu.geometry import Geometry
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, Product, StageStep
from rnnx.engines.gpu.persistent import forward_kernel as persistent_kernel


class Forward(Pass):
    """A forward pass.

    `kept` holds the arrays of a tape; without ``keep``, only the states. `working` holds the others, the input sides
    Z (T, m, X) and, unless they are added to Z, the recurrent sides Zh<i> (m, G_i n_i).
    """

    backward = False

    def __init__(self, stream: DeviceStream, key: PassKey, *, captured: bool = False, x: Array | None = None) -> None:
        super().__init__(stream, key, captured=captured)
        kept = {name: shape for name, shape in self.shapes.items() if key.keep or name.startswith("S")}
        working: Shapes = {name: shape for name, shape in self.shapes.items() if name not in kept}
        if key.has_lengths:
            (kept if key.keep else working)["lengths"] = ((key.m,), INDEX)
        if key.zx_row and not key.indices:
            working["Z"] = ((key.n_steps, key.m, key.zx_row), key.dtype)
        for stage in wiring(key.cell):
            if key.separate_sides(stage):
                working[f"Zh{stage.number}"] = ((key.m, stage.n_zh * stage.units(key.n)), key.dtype)
        working |= self.group_shapes()
        self.kept, self.working = self.allocate(kept), self.allocate(working)
        self._x_in_place = x is not None and not (captured or key.keep or key.has_lengths or key.indices)
        self._x_in_place = self._x_in_place and self.is_time_major(x)
        if self._x_in_place:
            self.addresses["X"] = stream.address(x)
        self._stages, self.results, self._numbers = self.stages(), Results(), Numbers()
        numbers = self._numbers
        before = [*self.parameter_copies(numbers), *self.state_copies(numbers), *self.input_copies(numbers)]
        before += self.group_copies()
        self.transfer = Transfer(stream, self.launch, numbers, before, self._result_copies(numbers))

    def state_copies(self, numbers: Numbers) -> list[Copy]:
        """Return the copies of the initial states."""
        return [self._copy(numbers.array(2), f"S{k}", (1, *self.shapes[f"S{k}"][0][1:])) for k in self._states]

    def input_copies(self, numbers: Numbers) -> list[Copy]:
        """Return the copies of the lengths, the inputs and the extra inputs, past each length of zeros."""
        key, copies = self.key, list[Copy]()
        lengths: Number = 0
        if key.has_lengths:
            source = numbers.array(1)
            lengths = source.address
            copies.append(Copy(source, End(self.address("lengths"), (INDEX.itemsize,)), (key.m, 1, 1), INDICES))
        if key.indices:  # (m, T), zero past each length
            address, by_example, by_step = numbers.next(3)
            strides, row = (by_example, by_example, by_step), key.m * INDEX.itemsize
            target = End(self.address("X"), (INDEX.itemsize, INDEX.itemsize, row))
            # Without lengths, examples take the place of units.
            shape = (1, key.m, key.n_steps) if lengths else (key.m, 1, key.n_steps)
            copies.append(Copy(End(address, strides), target, shape, INDICES, lengths))
        elif not self._x_in_place:
            copies.append(self._copy(numbers.array(3), "X", self.shapes["X"][0], lengths))
        names = [f"E{k}" for k in range(len(key.cell.inputs))]
        return copies + [self._copy(numbers.array(3), name, self.shapes[name][0], lengths) for name in names]

    def _copy(self, source: End, name: str, shape: tuple[int, ...], lengths: Number = 0) -> Copy:
        """Return the copy of an array of the caller to time-major memory."""
        target = End.time_major(self.address(name), shape, self.key.dtype)
        n_steps, m, n = shape
        return Copy(source, target, (n, m, n_steps), SAME, lengths)

    def _result_copies(self, numbers: Numbers) -> list[Copy]:
        """Return the copies of the states: those after every step, with zeros past each length, and without ``keep``,
        the final ones. An uncaptured pass without ``keep`` returns the states after every step in place.
        """
        (out,), lengths, copies = numbers.next(1), self.address("lengths"), list[Copy]()
        for k in self._states:
            (steps, m, n), dtype = self.shapes[f"S{k}"]
            size = m * n * dtype.itemsize
            if self.captured or self.key.keep or lengths:
                shape, source = (steps - 1, m, n), self.address(f"S{k}") + size
                offset = self.results.add(f"S{k}", shape, dtype, reversed_axes=True)
                ends = End.time_major(source, shape, dtype), End.time_major(out, shape, dtype, offset)
                copies.append(Copy(*ends, (n, m, steps - 1), SAME, lengths))
            if not self.key.keep:
                shape, source = (1, m, n), self.address(f"S{k}") + (steps - 1) * size
                offset = self.results.add(f"final{k}", shape, dtype)
                ends = End.time_major(source, shape, dtype), End.time_major(out, shape, dtype, offset)
                copies.append(Copy(*ends, (n, m, 1)))
        return copies

    @property
    def returns_states(self) -> bool:
        """Whether the states after every step are among the results."""
        return "S0" in self.results.views

    def of(self, given: Sequence[Array | None]) -> Any:
        """Run the pass on the parameters, the initial states (None: zeros), lengths if there are any, x, and the extra
        inputs; return the memory of its results.
        """
        if self._x_in_place:
            at = len(given) - len(self.key.cell.inputs) - 1
            given = (*given[:at], *given[at + 1 :])
        memory = self.results.allocate(self.stream)
        numbers = self._numbers.of(self.stream, given)
        numbers.append(self.stream.base(memory))
        self.run(numbers)
        return memory

    def work(self) -> None:
        """See `Pass`."""
        self.transfer.copy(0)
        self.project()
        self.loop()
        self.transfer.copy(1)

    def project(self) -> None:
        """Compute all input sides."""
        if self.key.zx_row and not self.key.indices:
            self.stream.gemm(self.matrix("X"), self.matrix("wx").T, self.matrix("Z"))

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        if self._geometry:
            self._run_persistent(self._geometry)
            return
        for t in range(self.key.n_steps):
            self.step(self._stages, t)

    def step(self, stages: Sequence[StageStep], t: int) -> None:
        """Run step t."""
        for stage in stages:
            self._product(stage, t)
            self._elementwise(stage, t)

    def _run_persistent(self, division: Geometry) -> None:
        key = self.key
        values = {"zx": self.address("Z"), "zx_step": key.m * key.zx_row, "index": 0}
        if key.indices:
            values = {"zx": self.address("wx"), "zx_step": 0, "index": self.address("X")}
        values |= {"row": key.zx_row, "n_x": key.n_x, "saved_step": key.m * key.n if key.keep else 0}
        self._whole_pass(division, persistent_kernel(key.cell, division), **values)

    def stages(self, before: int = 0, after: int = 1) -> list[StageStep]:
        """Return the work of a step. At step 0, it reads the states S<k>[before] and writes S<k>[after]."""
        return [self._stage(stage, before, after) for stage in wiring(self.key.cell)]

    def _stage(self, stage: StageWiring, before: int, after: int) -> StageStep:
        key, i, kernel = self.key, stage.number, forward_kernel(stage)
        row_step, offset = self._bytes(key.zx_row), key.layout.zx[i] * key.dtype.itemsize
        values: dict[str, StepArgument | int] = {
            name_of(a): self._place(a.slot, before, after) for a in forward_arrays(stage) if a.slot
        }
        sides: dict[str, StepArgument | int] = {"b": self.address("b") + offset, "bh": self.address(f"bh{i}")}
        sides |= {"zx": StepArgument(self.address("Z") + offset, row_step), "zh": self.address(f"Zh{i}")}
        values |= {"index": 0, "n_x": key.n_x}
        if key.indices:
            sides["zx"] = self.address("wx") + offset
            values["index"] = StepArgument(self.address("X"), key.m * INDEX.itemsize)
        values |= {name: sides[name] for name in forward_sides(stage)}
        arguments = self._bind(stage, kernel, key.zx_row, values)
        return StageStep(self._size(stage, kernel), arguments, self._recurrent_products(stage, before, after))

    def _recurrent_products(self, stage: StageWiring, before: int, after: int) -> list[Product]:
        key, i, separate = self.key, stage.number, self.key.separate_sides(stage)
        if not stage.n_zh:
            return []
        if separate:
            side = self.matrix(f"Zh{i}")
        else:
            side = self.matrix("Z").block(0, key.m, key.layout.zx[i], stage.n_zh * stage.units(key.n))
            side = side._replace(step=self._bytes(key.zx_row))
        (operand, step), n = self._place(stage.operand, before, after), stage.operand_units(key.n)
        a = Matrix(operand, key.m, n, n, key.dtype, step=step)
        return [Product(part, wh.T, z, int(not separate)) for z, wh, part in self._blocks(stage, side, a)]
