"""The forward pass of a cell on a stream.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from collections.abc import Mapping, Sequence

from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu import cluster_codegen
from rnnx.engines.gpu.codegen import forward_arrays, forward_kernel, name_of
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix, Shapes, StepArgument
from rnnx.engines.gpu.launches import INDEX, is_time_major, to_time_major
from rnnx.engines.gpu.packing import pack, packed_shapes
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass, StageStep
from rnnx.engines.protocol import Call


class Forward(Pass):
    """A forward pass.

    `kept` holds the arrays for a backward pass, see `Pass`; without ``keep``, only the states. `working` holds the
    input sides Z (T, m, G n) and, unless they are added to Z, the recurrent sides Zh<i> (m, G_i n).
    """

    def __init__(self, stream: DeviceStream, key: PassKey) -> None:
        super().__init__(stream, key)
        cell, dtype, n_steps, m, n = key.cell, key.dtype, key.n_steps, key.m, key.n
        states: Shapes = {f"S{k}": ((n_steps + 1, m, n), dtype) for k in range(len(cell.states))}
        others: Shapes = {f"K{k}": ((n_steps if key.keep else 1, m, n), dtype) for k in range(len(cell.saved))}
        others["X"] = ((n_steps, m), INDEX) if key.indices else ((n_steps, m, key.n_x), dtype)
        others |= packed_shapes(key)
        working: Shapes = {"lengths": ((m,), INDEX)} if key.has_lengths else {}
        if not key.indices:
            working["Z"] = ((n_steps, m, key.n_gates * n), dtype)
        for stage in wiring(cell):
            if key.separate_sides(stage):
                working[f"Zh{stage.number}"] = ((m, stage.n_gates * n), dtype)
        self.kept = Arena(stream, {**states, **others} if key.keep else states)
        self.working = Arena(stream, working if key.keep else {**working, **others})
        self._stages = [self._stage(stage) for stage in wiring(cell)]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.kept.size + self.working.size

    def address(self, name: str) -> int:
        """Return the address of an array; 0 if there is no array of that name."""
        return self.kept.address(name) or self.working.address(name)

    def arena(self, name: str) -> Arena:
        """Return the arena of an array."""
        return self.kept if name in self.kept else self.working

    def load(self, call: Call) -> None:
        """Copy the arguments of a call to the pass's memory, and compute the input sides."""
        self.load_state(call.parameters, call.s0)
        if call.lengths is not None:
            self.working.array("lengths")[...] = call.lengths
        if call.indices:
            self.arena("X").array("X")[...] = call.x.T
        else:
            self.project(call.x)

    def load_state(self, parameters: Mapping[str, Array], s0: Sequence[Array]) -> None:
        """Copy the parameters and the initial states."""
        pack(self.stream, self.key, parameters, self.arena("wx"))
        for k, state in enumerate(s0):
            to_time_major(self.stream, self.launch, state, self.kept.address(f"S{k}"), (1, self.key.m, self.key.n))

    def project(self, x: Array) -> None:
        """Compute all input sides from x (n_x, m, T), or (n_x, m) for one step; copy x for a backward pass."""
        key, lengths = self.key, self.working.address("lengths")
        X, wx = self.arena("X").matrix("X"), self.arena("wx").matrix("wx")
        if x.ndim == 3 and not key.keep and not key.has_lengths and is_time_major(self.stream, x):
            X = X._replace(address=self.stream.address(x))
        else:
            to_time_major(self.stream, self.launch, x, X.address, (key.n_steps, key.m, key.n_x), lengths)
        self.stream.gemm(X, wx.T, self.working.matrix("Z"))

    def loop(self) -> None:
        """Run the loop over time, without allocating or synchronizing."""
        if self._cluster_rows:
            self._run_clusters()
            return
        for t in range(self.key.n_steps):
            self._step(self._stages, t)

    def _step(self, stages: Sequence[StageStep], t: int) -> None:
        for stage in stages:
            self._product(stage, t)
            self._elementwise(stage, t)

    def _run_clusters(self) -> None:
        key = self.key
        values = {"zx": self.address("Z"), "zx_step": key.m * key.n_gates * key.n, "index": 0}
        if key.indices:
            values = {"zx": self.address("wx"), "zx_step": 0, "index": self.address("X")}
        values |= {"n_x": key.n_x, "saved_step": key.m * key.n if key.keep else 0}
        self._whole_pass(cluster_codegen.forward_kernel(key.cell), values)

    def _stage(self, stage: StageWiring, before: int = 0, after: int = 1) -> StageStep:
        """Return the work of a stage. At step 0, it reads the states S<k>[before] and writes S<k>[after]."""
        key, i, kernel, size = self.key, stage.number, forward_kernel(stage), self.key.dtype.itemsize
        first, columns, row_step = stage.first_gate * key.n, stage.n_gates * key.n, key.n_gates * self.step
        values = {name_of(a): self._place(a.slot, before, after) for a in forward_arrays(stage) if a.slot}
        if key.indices:
            values["zx"] = StepArgument(self.address("wx") + first * size)
            values["index"] = StepArgument(self.address("X"), key.m * INDEX.itemsize)
        else:
            values["zx"] = StepArgument(self.address("Z") + first * size, row_step)
            values["index"] = StepArgument(0)
        values["b"] = StepArgument(self.address("b") + first * size)
        values |= {name: StepArgument(self.address(f"{array}{i}")) for name, array in (("zh", "Zh"), ("bh", "bh"))}
        values["n_x"] = StepArgument(key.n_x)
        if key.separate_sides(stage):
            side = self.working.matrix(f"Zh{i}")
        else:
            side = self.working.matrix("Z").block(0, key.m, first, columns)._replace(step=row_step)
        operand, step = self._place(stage.operand, before, after)
        a = Matrix(operand, key.m, key.n, key.n, key.dtype, step=step)
        beta = int(not key.separate_sides(stage))
        return StageStep(kernel.name, self._bind(stage, kernel, values), a, self._wh(stage).T, side, beta)


class Alternating(Forward):
    """A repeatable forward pass of one step, which alternates between reading S<k>[0] and S<k>[1]."""

    def __init__(self, stream: DeviceStream, key: PassKey) -> None:
        super().__init__(stream, key)
        self._back = [self._stage(stage, 1, 0) for stage in wiring(key.cell)]
        self.slot = 0  # index of the current states

    def loop(self) -> None:
        """Run one step."""
        self._step(self._back if self.slot else self._stages, 0)
        self.slot = 1 - self.slot
