"""The engine for arrays on a GPU: products and one fused kernel a stage and step, recorded once and replayed.

Here arguments and results pass between the caller's arrays and the memory of a pass; the passes themselves stand in
`forward` and `backward`, what is kept from call to call in `graphs`, the kernels in `codegen`. None
of them knows a library: everything is asked of a `device.Queue`. See `rnnx.engines` for the interface.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx.cells import Cell
from rnnx.cells.parameters import StageGradients
from rnnx.engines.gpu import launches as moves
from rnnx.engines.gpu.backward import Backward, Given
from rnnx.engines.gpu.device import Arena, Array, Matrix, Queue
from rnnx.engines.gpu.forward import Alternating, Forward, pack_weights, weight_arrays
from rnnx.engines.gpu.graphs import Plan, Plans
from rnnx.engines.gpu.pass_key import Setup
from rnnx.engines.legacy import StageWeights

Arrays = tuple[Array, ...]


class _Packed(StageWeights):
    """The weights of a stage as a forward pass packed them; `index` counts the stages."""

    setup: Setup
    arena: Arena
    index: int
    plan: Plan | None

    def __init__(self, xp: Any, setup: Setup, arena: Arena, index: int, plan: Plan | None) -> None:
        # A frozen dataclass, whose fields are the properties below.
        self.__dict__.update(xp=xp, n=setup.n, setup=setup, arena=arena, index=index, plan=plan)

    def _gates(self, name: str, first: int) -> list[Array]:
        """A packed array gate by gate."""
        array, n = self.arena.array(name), self.n
        count = len(self.setup.cell.stages[self.index].gates)
        return [array[(first + g) * n : (first + g + 1) * n, ...] for g in range(count)]

    @cached_property
    def weights(self) -> tuple[tuple[Array, ...], ...]:
        first, inputs = self.setup.cell.first_gates[self.index], self.arena.array("wx")
        if self.setup.indexed:
            inputs = inputs.T
        n, hidden = self.n, self._gates(f"wh{self.index}", 0)
        return tuple((inputs[(first + g) * n : (first + g + 1) * n, :], wh) for g, wh in enumerate(hidden))

    @cached_property
    def bias(self) -> tuple[Array, ...]:
        return tuple(b[:, None] for b in self._gates("b", self.setup.cell.first_gates[self.index]))

    @cached_property
    def recurrent_bias(self) -> tuple[Array | None, ...]:
        if not self.setup.biases[self.index]:
            return (None,) * len(self.setup.cell.stages[self.index].gates)
        return tuple(b[:, None] for b in self._gates(f"bh{self.index}", 0))


def _biases(weights: Sequence[StageWeights]) -> tuple[bool, ...]:
    return tuple(any(b is not None for b in w.recurrent_bias) for w in weights)


class Engine:
    """The functions of an engine, on the queues that `queue_of` opens for an array."""

    def __init__(self, queue_of: Callable[[Array], AbstractContextManager[Queue]]) -> None:
        self._queue_of = queue_of

    def forward(
        self,
        xp: Any,
        cell: Cell,
        x: Array,
        weights: tuple[StageWeights, ...],
        s0: Arrays,
        lengths: Array | None,
        keep: bool,
    ) -> tuple[Array, Arrays, Arrays, Arrays, tuple[StageWeights, ...]]:
        """See `rnnx.engines`."""
        dtype, n_steps, m, first = np.dtype(s0[0].dtype), x.shape[-1], x.shape[-2], weights[0]
        ended, indexed = lengths is not None, x.ndim == 2
        setup = Setup(cell, dtype, n_steps, m, first.n, first.n_x, indexed, ended, _biases(weights), keep)
        if m * first.n >= 2**31:
            raise ValueError(f"m n_a must be less than 2^31 on a GPU; got {m} * {first.n}")
        with self._queue_of(s0[0]) as queue:
            plan = self._plans(queue).take(setup)
            work = Forward(queue, setup) if plan is None else plan.forward
            work.load(x, weights, s0, lengths)
            (work.loop if plan is None else plan.run_forward)()
            S = tuple(work.held.array(f"S{k}") for k in range(len(cell.states)))
            given_away = not keep and not ended and plan is None  # nobody else has S
            outputs = tuple(s[1:, ...] for s in S) if given_away else self._copies(queue, work)
            X = work.arena("X").array("X")
            if not keep:  # a plan's memory is not given away for good
                return X, S if plan is None else tuple(s[-1:, ...].copy() for s in S), (), outputs, ()
            K = tuple(work.held.array(f"K{k}") for k in range(len(cell.saved)))
            packed = tuple(_Packed(xp, setup, work.held, i, plan) for i in range(len(cell.stages)))
            return X, S, K, outputs, packed

    @staticmethod
    def _plans(queue: Queue) -> Plans:
        if queue.plans is None:
            queue.plans = Plans(queue)
        return queue.plans

    def _copies(self, queue: Queue, work: Forward) -> Arrays:
        """The states of all steps in memory of the caller's; zero past an example's end."""
        setup, copies = work.setup, []
        shape = (setup.n_steps, setup.m, setup.n)
        for k in range(len(setup.cell.states)):
            own = Arena(queue, {"S": (shape, setup.dtype)})
            after = work.held.array(f"S{k}")[1:, ...]
            lengths = work.working.address("lengths")
            moves.rows(queue, work.launch, after, own.address("S"), shape, lengths, internal=True)
            copies.append(own.array("S"))
        return tuple(copies)

    def backward(
        self,
        xp: Any,
        cell: Cell,
        dS: tuple[Array | None, ...],
        dlast: tuple[Array | None, ...],
        weights: tuple[StageWeights, ...],
        X: Array,
        S: Arrays,
        K: Arrays,
        lengths: Array | None,
    ) -> tuple[Array | None, Arrays, list[StageGradients]]:
        """See `rnnx.engines`."""
        n_steps, m, first, indexed = X.shape[0], X.shape[1], weights[0], X.ndim == 2
        dtype, ended = np.dtype(S[0].dtype), lengths is not None
        packed = first if isinstance(first, _Packed) else None
        n_x, biases = (packed.setup.n_x, packed.setup.biases) if packed else (first.n_x, _biases(weights))
        setup = Setup(cell, dtype, n_steps, m, first.n, n_x, indexed, ended, biases, True)
        external = tuple(d is not None for d in dS)
        X, S, K = ns.contiguous(xp, X), tuple(ns.contiguous(xp, s) for s in S), tuple(ns.contiguous(xp, k) for k in K)
        with self._queue_of(S[0]) as queue:
            plan = None
            if packed is not None:
                arena, plan = packed.arena, packed.plan if packed.setup == setup else None
            else:
                arena = Arena(queue, weight_arrays(setup))
                pack_weights(queue, setup, weights, arena)
            states, saved = tuple(map(queue.address, S)), tuple(map(queue.address, K))
            wh = tuple(arena.matrix(f"wh{i}") for i in range(len(cell.stages)))
            given = Given(queue.address(X), states, saved, wh, None if indexed else arena.matrix("wx"))
            # A recording is of the stream and memory it was made for.
            ours = plan is not None and plan.queue is queue and states[0] == plan.forward.address("S0")
            run: Callable[[], None]
            if plan is not None and ours:
                work, run = plan.backward(external, given)
            else:  # as it is
                work = Backward(queue, setup, external, given, dS)
                run = work.loop
            work.load(dS, dlast, lengths)
            run()
            dX, ds0, gradients = work.gradients()
            return dX, tuple(ds0), gradients

    def matmul(self, xp: Any, a: Array, b: Array, bias: Array | None = None) -> Array:
        """See `rnnx.engines`."""
        dtype = np.dtype(a.dtype)
        if 0 in (*a.shape, *b.shape) or b.dtype != a.dtype:
            return a @ b if bias is None else a @ b + bias
        with self._queue_of(a) as queue:
            left, right = (_matrix(queue, xp, one) for one in (a, b))
            own = Arena(queue, {"product": ((a.shape[0], b.shape[1]), dtype)})
            queue.gemm(left[0], right[0], own.matrix("product"))
            result = own.array("product")
            if bias is not None:
                result += bias
            return result

    def stepper(self, xp: Any, cell: Cell, weights: tuple[StageWeights, ...], s0: Arrays) -> "Stepper":
        """See `rnnx.engines`."""
        return Stepper(self._queue_of, xp, cell, weights, s0)


def _matrix(queue: Queue, xp: Any, a: Array) -> tuple[Matrix, Array]:
    """An array as a matrix, without a copy if its rows or its columns lie side by side; and what keeps it alive."""
    dtype = np.dtype(a.dtype)
    for transposed, array in ((False, a), (True, a.T)):
        by_row, by_column = queue.strides(array)
        rows, columns = array.shape
        if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
            matrix = Matrix(queue.address(array), rows, columns, max(by_row, columns), dtype)
            return (matrix.T if transposed else matrix), array
    return _matrix(queue, xp, ns.contiguous(xp, a))


class Stepper:
    """See `rnnx.engines`: a forward pass of one step, over and over in the same memory."""

    def __init__(
        self,
        queue_of: Callable[[Array], AbstractContextManager[Queue]],
        xp: Any,
        cell: Cell,
        weights: tuple[StageWeights, ...],
        s0: Arrays,
    ) -> None:
        del xp
        self._queue_of = queue_of
        first, m = weights[0], s0[0].shape[1]
        setup = Setup(cell, np.dtype(s0[0].dtype), 1, m, first.n, first.n_x, False, False, _biases(weights), False)
        with queue_of(s0[0]) as queue:
            self._work = Alternating(queue, setup)
            self._work.load(None, weights, s0, None)
            states = [self._work.held.array(f"S{k}") for k in range(len(cell.states))]
            self._slots = [tuple(state[slot, ...].T for state in states) for slot in range(2)]

    def step(self, xt: Array) -> Arrays:
        """See `rnnx.engines`."""
        with self._queue_of(xt) as queue:
            self._work.queue = queue  # the stream may be another one
            self._work.project(xt)
            self._work.loop()
            return self._slots[self._work.slot]

    def set(self, states: Arrays) -> None:
        """See `rnnx.engines`."""
        with self._queue_of(states[0]):
            for mine, given in zip(self._slots[self._work.slot], states, strict=True):
                mine[...] = given
