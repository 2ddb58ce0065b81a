# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The compiled engine for NumPy arrays. Start with README.md."""

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import zip_longest

import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.kinds import use_reader
from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes
from rnnx.cells.wiring import wiring
from rnnx.engines.cpu import dense, kernels
from rnnx.engines.cpu.codegen.direct import most_rows
from rnnx.engines.cpu.codegen.gemm import MC
from rnnx.engines.cpu.descriptor.builder import PassKey, direct, kept_format, product
from rnnx.engines.cpu.descriptor.layout import contiguous, memory_of
from rnnx.engines.cpu.descriptor.stages import kernels_of
from rnnx.engines.cpu.dropout import dropped, kept
from rnnx.engines.cpu.operations import OPERATIONS
from rnnx.engines.cpu.plans import BackwardPlan, ForwardPlan
from rnnx.engines.cpu.runtime.objects import kinds_reader
from rnnx.engines.cpu.runtime.thread_policy import max_threads, measured
from rnnx.engines.cpu.runtime.thread_pool import pool
from rnnx.engines.cpu.runtime.tuning import panel_vectors
from rnnx.engines.cpu.stepper import CpuStepper
from rnnx.engines.cpu.steps import CpuStep
from rnnx.engines.cpu.tape import run_of
from rnnx.engines.protocol import Arrays, Call, Cotangents, Gradients, PreparingEngine, Tape


class CpuEngine:
    """See `rnnx.engines.protocol.Engine`."""

    operations = OPERATIONS

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        return self.prepared(call, keep=keep)((call.x, *call.s0, *call.inputs, *call.parameters.values()), call.lengths)

    def prepared(
        self, call: Call, *, keep: bool, zero: tuple[bool, ...] = ()
    ) -> Callable[[Arrays, Array | None], tuple[Arrays, Tape]]:
        _read_kinds()
        s0 = [None if is_zero else memory_of(s) for s, is_zero in zip_longest(call.s0, zero)]
        memory = memory_of(call.x), *s0, *map(memory_of, (*call.inputs, *call.parameters.values()))
        sizes, keys = (call.n_steps, call.m, call.n_a, call.n_x), tuple(call.parameters)
        key = PassKey(call.cell, call.dtype, *sizes, call.indices, keys, call.lengths is not None, kept_format(call))
        return ForwardPlan(call.xp, key, keep, memory, call.only_first).run

    def prepared_step(self, call: Call) -> CpuStep:
        _read_kinds()
        return CpuStep(call)

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        given = (*cotangents.states, *cotangents.final)
        return self.prepared_backward(tape, given)(tape, tuple([d for d in given if d is not None]))

    def prepared_backward(
        self, tape: Tape, cotangents: tuple[Array | None, ...]
    ) -> Callable[[Tape, Arrays], Gradients]:
        memory, run = tuple([None if d is None else memory_of(d) for d in cotangents]), run_of(tape)
        if run is not None:
            return partial(_backward, BackwardPlan(run.plan.key, memory, run.plan.job.kept_at))
        sizes, keys = (tape.n_steps, tape.m, tape.n_a, tape.n_x), tuple(tape.parameters)
        key = PassKey(tape.cell, tape.dtype, *sizes, tape.indices, keys, tape.lengths is not None)
        return partial(_backward, BackwardPlan(key, memory, None))

    def matmul(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return dense.matmul(a, b, bias)

    dense_gradients = staticmethod(dense.gradients)
    kept, dropped = staticmethod(kept), staticmethod(dropped)

    def stepper(self, call: Call) -> CpuStepper:
        return CpuStepper(call)


ENGINE: PreparingEngine = CpuEngine()


@lru_cache(maxsize=1)
def _read_kinds() -> None:
    """From now on, let compiled code read the kinds of arrays."""
    if (read := kinds_reader()) is not None:
        use_reader(read)


def _backward(plan: BackwardPlan, tape: Tape, cotangents: Arrays) -> Gradients:
    """Run a backward pass on what a forward pass left, or else on the arrays of a tape."""
    run = run_of(tape)
    if run is not None:
        return plan.run((run.memory, *run.given), cotangents, tape.lengths)
    parameters, copies = plan.job.kept.memory(), tape.parameters.values()
    for array, value in zip(plan.job.kept.arrays(parameters), copies, strict=True):
        array[...] = value
    x = np.ascontiguousarray(tape.x, np.int64) if tape.indices else tape.x
    values = contiguous([*tape.states, *(tape.saved or ()), x, *tape.inputs])
    return plan.run((parameters, *values), cotangents, tape.lengths)


def compile_ahead(cell: Cell, dtype: str) -> None:
    """Compile or load everything that a cell needs, by running it on as few elements as possible."""
    n = cell.multiple
    parameters = {key: np.ones(shape, dtype) for key, (_, shape) in expected_shapes(cell, 1, n).items()}
    n_states, x = len(cell.states), np.ones((1, 1, 2), dtype)
    s0 = tuple([np.ones((cell.size(name, n), 1), dtype) for name in cell.states])
    inputs = tuple([np.ones((cell.size(name, n), 1, 2), dtype) for name in cell.inputs])
    call = Call(cell, np, x.dtype, x, False, 1, s0, parameters, None, inputs)
    _, tape = ENGINE.forward(call, keep=True)
    ds = (np.ones((n, 1, 2), dtype),) + (None,) * (n_states - 1)
    ENGINE.backward(tape, Cotangents(ds, (None,) * n_states))
    for given in itertools.product((False, True), repeat=n_states):
        kernels_of(cell, x.dtype, given)
    groups = {1, *(n for stage in wiring(cell) for n in (stage.n_zh, stage.n_zx))}
    for group, rows in itertools.product(groups, (0, MC)):
        product(x.dtype, panel_vectors(group, rows))
    if most_rows():
        direct(x.dtype)
    kernels.softmax(x.dtype)
    dense.jobs()
    measured(max_threads())
    pool()
