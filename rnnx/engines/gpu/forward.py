"""The forward pass of a cell on a queue: its memory, what is put into it, and the loop over time.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rnnx.engines.gpu import clusters as cluster
from rnnx.engines.gpu import launches as moves
from rnnx.engines.gpu.codegen import THREADS, options, sources
from rnnx.engines.gpu.device import Arena, Array, Matrix, Moving, Queue, Shapes
from rnnx.engines.gpu.pass_key import Setup
from rnnx.engines.legacy import StageWeights


def weight_arrays(setup: Setup) -> Shapes:
    """The parameters, packed: wh<i> (G_i n, n), wx (G n, n_x) or for indices (n_x, G n), b (G n,), bh<i> (G_i n,)."""
    n, n_x, dtype = setup.n, setup.n_x, setup.dtype
    arrays: Shapes = {}
    rows = setup.n_gates * n
    for i, stage in enumerate(setup.cell.stages):
        arrays[f"wh{i}"] = ((len(stage.gates) * n, n), dtype)
        if setup.biases[i]:
            arrays[f"bh{i}"] = ((len(stage.gates) * n,), dtype)
    return {**arrays, "wx": ((n_x, rows) if setup.indexed else (rows, n_x), dtype), "b": ((rows,), dtype)}


def pack_weights(queue: Queue, setup: Setup, weights: Sequence[StageWeights], arena: Arena) -> None:
    """Fill what `weight_arrays` names."""
    n, n_x, size, jobs = setup.n, setup.n_x, setup.dtype.itemsize, []
    row, column = (1, setup.n_gates * n) if setup.indexed else (n_x, 1)
    for i, w in enumerate(weights):
        gates = zip(w.hidden, w.inputs, w.bias, w.recurrent_bias, strict=True)
        for g, (hidden, inputs, bias, other) in enumerate(gates):
            below = (setup.cell.first_gates[i] + g) * n * size
            jobs.append(moves.job(queue, hidden, arena.address(f"wh{i}") + g * n * n * size, n, 1, (n, n)))
            jobs.append(moves.job(queue, inputs, arena.address("wx") + below * row, row, column, (n, n_x)))
            jobs.append(moves.job(queue, bias, arena.address("b") + below, 1, 1, (n, 1)))
            if setup.biases[i]:
                jobs.append(moves.job(queue, other, arena.address(f"bh{i}") + g * n * size, 1, 1, (n, 1)))
    moves.pack(queue.kernels(sources(setup.cell), options(setup.dtype)), jobs)


class Forward:
    """A forward pass. What a backward pass needs is in `held`, the rest in `working`."""

    def __init__(self, queue: Queue, setup: Setup) -> None:
        self.queue, self.setup = queue, setup
        self.launch = queue.kernels(sources(setup.cell), options(setup.dtype))
        self._rows = cluster.rows_of(queue, setup)  # of a cluster; 0: step by step
        cell, dtype = setup.cell, setup.dtype
        n_steps, m, n = setup.n_steps, setup.m, setup.n
        states: Shapes = {f"S{k}": ((n_steps + 1, m, n), dtype) for k in range(len(cell.states))}
        saved = {f"K{k}": ((n_steps if setup.keep else 1, m, n), dtype) for k in range(len(cell.saved))}
        inputs: Shapes = {"X": ((n_steps, m), moves.INDEX) if setup.indexed else ((n_steps, m, setup.n_x), dtype)}
        ends: Shapes = {"lengths": ((m,), moves.INDEX)} if setup.ended else {}
        others = {**saved, **inputs, **weight_arrays(setup)}
        working: Shapes = dict(ends)
        if not setup.indexed:
            working["Z"] = ((n_steps, m, setup.n_gates * n), dtype)
        for i, beside in enumerate(setup.beside):
            if beside:
                working[f"Zh{i}"] = ((m, len(cell.stages[i].gates) * n), dtype)
        self.held = Arena(queue, {**states, **others} if setup.keep else states)
        self.working = Arena(queue, working if setup.keep else {**working, **others})
        self._blocks, self._sizes = (-(-m * n // THREADS), 1), (m, n, setup.n_gates * n)
        self._stages = [self._stage(i, 0, 1) for i in range(len(cell.stages))]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.held.size + self.working.size

    def address(self, name: str) -> int:
        """Where an array begins; 0 if there is none of that name."""
        return self.held.address(name) or self.working.address(name)

    def arena(self, name: str) -> Arena:
        """The memory that an array is in."""
        return self.held if name in self.held else self.working

    def load(self, x: Array, weights: Sequence[StageWeights], s0: Sequence[Array], lengths: Array | None) -> None:
        """Put the arguments of a call in their places."""
        setup = self.setup
        pack_weights(self.queue, setup, weights, self.arena("wx"))
        for k, state in enumerate(s0):
            moves.rows(self.queue, self.launch, state, self.held.address(f"S{k}"), (1, setup.m, setup.n))
        if lengths is not None:
            self.working.array("lengths")[...] = lengths
        if setup.indexed:
            self.arena("X").array("X")[...] = x.T
        elif x is not None:
            self.project(x)

    def project(self, x: Array) -> None:
        """The input side of all steps, into Z; x is (n_x, m, T), or (n_x, m) if there is one step.

        What becomes of x is not ours: it is copied, unless nobody needs it later.
        """
        setup, lengths = self.setup, self.working.address("lengths")
        X, wx = self.arena("X").matrix("X"), self.arena("wx").matrix("wx")
        if x.ndim == 3 and not setup.keep and not setup.ended and moves.in_rows(self.queue, x):
            X = X._replace(address=self.queue.address(x))
        else:
            shape = (setup.n_steps, setup.m, setup.n_x)
            moves.rows(self.queue, self.launch, x, X.address, shape, lengths)
        self.queue.gemm(X, wx.T, self.working.matrix("Z"))

    def loop(self) -> None:
        """The loop over time; it allocates nothing and waits for nothing."""
        if self._rows:
            cluster.launch(self.queue, self.setup, "cluster_forward", self._rows, self._whole())
            return
        for t in range(self.setup.n_steps):
            self._step(self._stages, t)

    def _step(self, stages: Sequence["_Stage"], t: int) -> None:
        for stage in stages:
            side = stage.side.at(t)
            self.queue.gemm(stage.operand.at(t), stage.weights, side, stage.beta)
            places = [base + t * by for base, by in stage.places]
            arguments = (*places, t, *self._sizes, side.columns, self.setup.n_x)
            self.launch(stage.kernel, self._blocks, (THREADS, 1), arguments)

    def _whole(self) -> list[int]:
        """The arguments of the kernel of a whole pass."""
        setup, cell = self.setup, self.setup.cell
        row = setup.n_gates * setup.n
        inputs = [self.address("wx"), 0, self.address("X")] if setup.indexed else [self.address("Z"), setup.m * row, 0]
        weights = [self.address(f"{name}{i}") for i in range(len(cell.stages)) for name in ("wh", "bh")]
        states = [self.held.address(f"S{k}") for k in range(len(cell.states))]
        saved = [self.address(f"K{k}") for k in range(len(cell.saved))]
        sizes = [setup.n_steps, setup.m, setup.n, row, setup.n_x, setup.m * setup.n if setup.keep else 0]
        return [*inputs, self.address("b"), *weights, *states, *saved, self.working.address("lengths"), *sizes]

    def _stage(self, i: int, before: int, after: int) -> "_Stage":
        """What stage i does at step 0, from one slot of the states to another, and how its places move."""
        setup, cell = self.setup, self.setup.cell
        m, n, size = setup.m, setup.n, setup.dtype.itemsize
        last, columns, first = i == len(cell.stages) - 1, len(cell.stages[i].gates) * n, setup.cell.first_gates[i] * n
        step, row = m * n * size, m * setup.n_gates * n * size
        slots = [
            [(self.held.address(f"S{k}") + at * step, step) for k in range(len(cell.states))] for at in (before, after)
        ]
        saved = [(self.address(f"K{k}"), step if setup.keep else 0) for k in range(len(cell.saved))]
        kept_at, out_at = cell.saved_slices[i]
        into = saved[cell.saved_slices[i - 1][1]] if i else slots[0]
        inputs = [(self.address("wx") + first * size, 0), (self.address("X"), m * moves.INDEX.itemsize)]
        if not setup.indexed:
            inputs = [(self.address("Z") + first * size, row), (0, 0)]
        constants = [(self.address(f"Zh{i}"), 0), (self.address("b") + first * size, 0), (self.address(f"bh{i}"), 0)]
        ends = (self.working.address("lengths"), 0)
        leaving = [*(slots[1] if last else saved[out_at]), *saved[kept_at], *(slots[0] if last and i else [])]
        operand = Moving(Matrix(into[0][0], m, n, n, setup.dtype), into[0][1])
        weights = self.arena(f"wh{i}").matrix(f"wh{i}").T
        if setup.beside[i]:
            side = Moving(self.working.matrix(f"Zh{i}"), 0)
        else:
            side = Moving(self.working.matrix("Z").below(0, m).part(first, columns), row)
        places = [*inputs, *constants, *into, *leaving, ends]
        return _Stage(f"forward_{i}", places, operand, weights, side, int(not setup.beside[i]))


class _Stage(NamedTuple):
    kernel: str
    places: list[tuple[int, int]]  # arguments of the kernel: address at step 0, and bytes from a step to the next
    operand: Moving  # times the weights, transposed,
    weights: Matrix
    side: Moving  # goes here,
    beta: int  # or is added to what is there


class Alternating(Forward):
    """A forward pass of one step, over and over: from the states in one slot to the other, and back."""

    def __init__(self, queue: Queue, setup: Setup) -> None:
        super().__init__(queue, setup)
        self._back = [self._stage(i, 1, 0) for i in range(len(setup.cell.stages))]
        self.slot = 0  # of the states

    def loop(self) -> None:
        """The step."""
        self._step(self._back if self.slot else self._stages, 0)
        self.slot = 1 - self.slot
