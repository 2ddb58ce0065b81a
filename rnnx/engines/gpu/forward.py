"""The forward pass of a cell on a stream.

Dimensions as in `pass_key`: T steps, m examples, n units, n_i of stage i; G_i gates with a recurrent side of stage i; X
input sides of all stages.
"""

from collections.abc import Sequence

from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.codegen import forward_arrays, forward_kernel, forward_sides, name_of
from rnnx.engines.gpu.device import INDEX, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.geometry import Geometry
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, Product, StageStep
from rnnx.engines.gpu.persistent import forward_kernel as persistent_kernel
from rnnx.engines.protocol import Call


class Forward(Pass):
    """A forward pass.

    `kept` holds the arrays of a tape; without ``keep``, only the states. `working` holds the others, the input sides
    Z (T, m, X) and, unless they are added to Z, the recurrent sides Zh<i> (m, G_i n_i).
    """

    def __init__(self, stream: DeviceStream, key: PassKey, *, captured: bool = False) -> None:
        super().__init__(stream, key, captured=captured)
        kept = {name: shape for name, shape in self.shapes.items() if key.keep or name.startswith("S")}
        working: Shapes = {name: shape for name, shape in self.shapes.items() if name not in kept}
        if key.has_lengths:
            working["lengths"] = ((key.m,), INDEX)
        if key.zx_row and not key.indices:
            working["Z"] = ((key.n_steps, key.m, key.zx_row), key.dtype)
        for stage in wiring(key.cell):
            if key.separate_sides(stage):
                working[f"Zh{stage.number}"] = ((key.m, stage.n_zh * stage.units(key.n)), key.dtype)
        self.kept, self.working = self.allocate(kept), self.allocate(working)
        self._stages = self.stages()

    def load(self, call: Call) -> None:
        """Copy the arguments of a call to the pass's memory, and compute the input sides."""
        self.load_state(call)
        if call.lengths is not None:
            self.working.array("lengths")[...] = call.lengths
        if call.indices:
            (self.kept if self.key.keep else self.working).array("X")[...] = call.x.T
        else:
            self.project(call.x)
        self.load_inputs(call.inputs)

    def load_state(self, call: Call) -> None:
        """Copy the parameters and the initial states."""
        self.load_parameters(call.parameters)
        for k, state in enumerate(call.s0):
            self.to_time_major(state, self.address(f"S{k}"), (1, self.key.m, state.shape[0]))

    def load_inputs(self, inputs: Sequence[Array]) -> None:
        """Copy the extra inputs (n_k, m, T), or (n_k, m) for one step."""
        for k, array in enumerate(inputs):
            self.to_time_major(array, self.address(f"E{k}"), self.shapes[f"E{k}"][0], self.address("lengths"))

    def project(self, x: Array) -> None:
        """Compute all input sides from x (n_x, m, T), or (n_x, m) for one step; copy x for a backward pass."""
        key, X = self.key, self.matrix("X")
        if x.ndim == 3 and not key.keep and not key.has_lengths and self.is_time_major(x):
            X = X._replace(address=self.stream.address(x))
        else:
            self.to_time_major(x, X.address, (key.n_steps, key.m, key.n_x), self.address("lengths"))
        if key.zx_row:
            self.stream.gemm(X, self.matrix("wx").T, self.matrix("Z"))

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
        self._whole_pass(division, persistent_kernel(key.cell, division), backward=False, **values)

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
