"""The backward pass of a cell on a queue: its memory, the loop over time, and the gradients after it.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of all stages, G_i gates of stage i.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rnnx.cells.parameters import StageGradients
from rnnx.engines.gpu import clusters as cluster
from rnnx.engines.gpu import launches as moves
from rnnx.engines.gpu.codegen import THREADS, carries_over, options, real_dtype, sources
from rnnx.engines.gpu.device import Arena, Array, Matrix, Moving, Queue, Shapes
from rnnx.engines.gpu.pass_key import Setup


class Given(NamedTuple):
    """Where the arrays of the forward pass are."""

    X: int
    states: tuple[int, ...]
    saved: tuple[int, ...]
    weights: tuple[Matrix, ...]  # per stage, (G_i n, n)
    wx: Matrix | None  # (G n, n_x)


class Backward:
    """A backward pass; `external` says for which states there are cotangents of all steps.

    Those in `dS` are read where they are, if they lie in the order in which they are read.
    """

    def __init__(
        self,
        queue: Queue,
        setup: Setup,
        external: tuple[bool, ...],
        given: Given,
        dS: Sequence[Array | None] = (),
    ) -> None:
        self.queue, self.setup, self.given, self.external = queue, setup, given, external
        self._as_it_is = {k: queue.address(d) for k, d in enumerate(dS) if d is not None and moves.in_rows(queue, d)}
        self.launch = queue.kernels(sources(setup.cell), options(setup.dtype))
        self._rows = cluster.rows_of(queue, setup)  # of a cluster; 0: step by step
        cell, dtype, real = setup.cell, setup.dtype, real_dtype(setup.dtype)
        n_steps, m, n = setup.n_steps, setup.m, setup.n
        arrays: Shapes = {"dZ": ((n_steps, m, setup.n_gates * n), dtype)}
        for i, stage in enumerate(cell.stages):
            arrays |= {f"d{i}_{k}": ((m, n), real) for k in range(len(cell.entering(i)))}
            if not stage.additive:
                arrays[f"dZh{i}"] = ((n_steps, m, len(stage.gates) * n), dtype)
        arrays |= {
            f"dS{k}": ((n_steps, m, n), dtype)
            for k, is_given in enumerate(external)
            if is_given and k not in self._as_it_is
        }
        if setup.ended:
            arrays["lengths"] = ((m,), moves.INDEX)
        self.memory = Arena(queue, arrays)
        self._stages = [self._stage(i) for i in range(len(cell.stages))]

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.memory.size

    def load(self, dS: Sequence[Array | None], dlast: Sequence[Array | None], lengths: Array | None) -> None:
        """Put the cotangents of a call in their places."""
        queue, launch, setup, memory = self.queue, self.launch, self.setup, self.memory
        if lengths is not None:
            memory.array("lengths")[...] = lengths
        for k, d in enumerate(dlast):
            moves.rows(queue, launch, d, memory.address(f"d0_{k}"), (1, setup.m, setup.n), kernel="rows_widened")
        for k, d in enumerate(dS):
            if d is not None and k not in self._as_it_is:
                moves.rows(queue, launch, d, memory.address(f"dS{k}"), (setup.n_steps, setup.m, setup.n))

    def loop(self) -> None:
        """The loop over time; it allocates nothing and waits for nothing."""
        if self._rows:
            cluster.launch(self.queue, self.setup, "cluster_backward", self._rows, self._whole())
            return
        queue, launch, setup = self.queue, self.launch, self.setup
        m, n = setup.m, setup.n
        row, lengths = setup.n_gates * n, self.memory.address("lengths")
        blocks, threads = (-(-m * n // THREADS), 1), (THREADS, 1)
        for t in range(setup.n_steps - 1, -1, -1):
            for i in range(len(self._stages) - 1, -1, -1):
                stage = self._stages[i]
                places = [base + t * step for base, step in stage.places]
                launch(f"backward_{i}", blocks, threads, (*places, lengths, t, m, n, row, stage.side.matrix.columns))
                queue.gemm(stage.side.at(t), self.given.weights[i], stage.operand, stage.beta)

    def _outside(self, k: int) -> int:
        """Where the cotangents of state k of all steps are; 0 if there are none."""
        return self._as_it_is.get(k) or self.memory.address(f"dS{k}")

    def _whole(self) -> list[int]:
        """The arguments of the kernel of a whole pass."""
        setup, cell, given, memory = self.setup, self.setup.cell, self.given, self.memory
        states = range(len(cell.states))
        outside = [self._outside(k) for k in states]
        weights = [matrix.address for matrix in given.weights]
        dzh = [memory.address(f"dZh{i}") for i, stage in enumerate(cell.stages) if not stage.additive]
        carried = [memory.address(f"d0_{k}") for k in states]
        sizes = [setup.n_steps, setup.m, setup.n, setup.n_gates * setup.n]
        sides = [memory.address("dZ"), *dzh, *carried, memory.address("lengths")]
        return [*outside, *weights, *given.states, *given.saved, *sides, *sizes]

    def _stage(self, i: int) -> "_Stage":
        """What stage i does at step 0, and how its places move."""
        setup, cell, given, memory = self.setup, self.setup.cell, self.given, self.memory
        m, n, size = setup.m, setup.n, setup.dtype.itemsize
        stage, last, first = cell.stages[i], i == len(cell.stages) - 1, cell.first_gates[i] * n
        step, row = m * n * size, m * setup.n_gates * n * size
        columns = len(stage.gates) * n
        states = [(base, step) for base in given.states]
        saved = [(base, step) for base in given.saved]
        kept_at, out_at = cell.saved_slices[i]
        carried = f"d{0 if last else i + 1}"
        places = [(self._outside(k), step * self.external[k]) for k in range(len(cell.states))] if last else []
        places += [(memory.address(f"{carried}_{k}"), 0) for k in range(len(stage.out))]
        places += saved[cell.saved_slices[i - 1][1]] if i else states
        places += [(base + step, step) for base in given.states] if last else saved[out_at]
        places += [*saved[kept_at], (memory.address("dZ") + first * size, row)]
        side = Moving(memory.matrix("dZ").below(0, m).part(first, columns), row)
        if not stage.additive:
            side = Moving(memory.matrix(f"dZh{i}").below(0, m), m * columns * size)
            places.append((side.matrix.address, side.step))
        places += [(memory.address(f"d{i}_{k}"), 0) for k in range(len(cell.entering(i)))]
        # The kernel has written what the product is added to, unless there is nothing.
        beta = int(carries_over(cell, i) or setup.ended)
        return _Stage(places, side, memory.matrix(f"d{i}_0"), beta)

    def gradients(self) -> tuple[Array | None, list[Array], list[StageGradients]]:
        """dX, the cotangents of the initial states, and the gradients of the parameters: the caller's."""
        queue, setup, given, memory = self.queue, self.setup, self.given, self.memory
        cell, dtype = setup.cell, setup.dtype
        n_steps, m, n, n_x = setup.n_steps, setup.m, setup.n, setup.n_x
        arrays: Shapes = {"w": ((setup.n_gates * n, n + n_x), dtype), "b": ((setup.n_gates * n,), dtype)}
        arrays |= {f"bh{i}": ((len(cell.stages[i].gates) * n,), dtype) for i, has in enumerate(setup.biases) if has}
        arrays |= {f"ds{k}": ((m, n), dtype) for k in range(len(cell.states))}
        results = Arena(queue, arrays)
        dZ, dX, wx = memory.matrix("dZ"), None, results.matrix("w").part(n, n_x)
        if given.wx is None:
            moves.sum_by_index(self.launch, dZ, given.X, wx)
        else:
            own = Arena(queue, {"dX": ((n_steps, m, n_x), dtype)})
            queue.gemm(dZ, given.wx, own.matrix("dX"))
            queue.gemm(dZ.T, Matrix(given.X, n_steps * m, n_x, n_x, dtype), wx)
            dX = own.array("dX")
        moves.sum_columns(queue, self.launch, dZ, results.address("b"))
        for k in range(len(cell.states)):
            source, target = memory.array(f"d0_{k}")[None, ...], results.address(f"ds{k}")
            moves.rows(queue, self.launch, source, target, (1, m, n), kernel="rows_narrowed", internal=True)
        gradients = [self._of_stage(i, results) for i in range(len(cell.stages))]
        return dX, [results.array(f"ds{k}") for k in range(len(cell.states))], gradients

    def _of_stage(self, i: int, results: Arena) -> StageGradients:
        """The gradients of the parameters of stage i; those of the input weights are there already."""
        queue, setup, memory, cell = self.queue, self.setup, self.memory, self.setup.cell
        m, n, first = setup.m, setup.n, cell.first_gates[i] * setup.n
        columns = len(cell.stages[i].gates) * n
        kept = memory.matrix(f"dZh{i}") if f"dZh{i}" in memory else memory.matrix("dZ").part(first, columns)
        operand = self.given.states[0] if i == 0 else self.given.saved[cell.saved_slices[i - 1][1].start]
        target = results.matrix("w").below(first, columns).part(0, n)
        queue.gemm(kept.T, Matrix(operand, setup.n_steps * m, n, n, setup.dtype), target)
        bh = None
        if setup.biases[i]:
            moves.sum_columns(queue, self.launch, kept, results.address(f"bh{i}"))
            bh = results.array(f"bh{i}")
        return StageGradients(
            results.array("w")[first : first + columns, :], results.array("b")[first : first + columns], bh
        )


class _Stage(NamedTuple):
    places: list[tuple[int, int]]  # arguments of the kernel: address at step 0, and bytes from a step to the next
    side: Moving  # the cotangents that the recurrent weights are multiplied by;
    operand: Matrix  # the cotangent of what the weights multiplied: the product goes here,
    beta: int  # or is added to what is there
