# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The compiled engine for NumPy arrays: allocates the arrays of a pass and runs it. Start with README.md."""

import itertools
import operator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes, recurrent_parameters
from rnnx.engines.cpu import dense
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import TIME_MAJOR, Reading, contiguous, memory_of, reading
from rnnx.engines.cpu.descriptor.stages import kernels_of
from rnnx.engines.cpu.operations import OPERATIONS
from rnnx.engines.cpu.runtime.buffer_pool import addresses, empty
from rnnx.engines.cpu.runtime.thread_pool import pool
from rnnx.engines.cpu.stepper import CpuStepper
from rnnx.engines.protocol import Arrays, Call, Cotangents, Engine, Gradients, Tape


class _Kept(NamedTuple):
    """What a forward pass leaves to the backward pass: all the tape's arrays are in one block."""

    tape: tuple[Any, ...]  # states, saved values and x, which differ on a tape of some of the steps
    values: list[int]  # addresses of those and the extra inputs, as in `BackwardPass.values`
    parameters: int  # the address of their copies


class CpuEngine:
    """See `rnnx.engines.protocol.Engine`."""

    operations = OPERATIONS

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        cell, dtype, lengths, x, s0 = call.cell, call.dtype, call.lengths, call.x, call.s0
        n_states = len(s0)
        x = np.asfortranarray(x, np.int64) if call.indices else x
        sequences = (x, *call.inputs)
        memory = tuple(map(memory_of, sequences))
        sizes = s0[0].shape[0], call.n_x
        job, readings = _forward_pass(
            cell, dtype, sizes, call.indices, tuple(call.parameters), lengths is not None, keep, memory
        )
        at, block = job.block.allocate()
        states, end = tuple(block[:n_states]), n_states + len(cell.saved)
        for S, s in zip(states, s0, strict=True):
            S[0] = s.T
        sequences = tuple([r.of(a) for r, a in zip(readings, sequences, strict=True)])
        keys = job.key.keys
        values = contiguous([call.parameters[key] for key in keys])
        outputs = [empty(S[1:].shape, dtype) for S in states[: len(job.outputs)]]
        given = addresses([*sequences, *values, *outputs])
        job.run([at, *given], lengths)
        X = sequences[0] if job.layouts[0] is None else block[end]
        if not outputs:
            outputs = [S[1:] for S in states]
        kept = own = None
        inputs: Arrays = ()
        if keep:
            kept, inputs, values = tuple(block[n_states:end]), tuple(block[end + 1 : -len(keys)]), block[-len(keys) :]
            *at_values, at_parameters = [at + offset for offset in job.kept_at]
            if call.indices:
                at_values[end] = given[0]
            own = _Kept((states, kept, X), at_values, at_parameters)
        else:
            states = _final(states, lengths)
        parameters = dict(zip(keys, values, strict=True))
        tape = Tape(cell, call.xp, dtype, X, call.indices, call.n_x, states, kept, lengths, parameters, own, inputs)
        return tuple([a.T for a in outputs]), tape

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        dtype, lengths, x = tape.dtype, tape.lengths, tape.x
        _, m, n = tape.states[0].shape
        sizes = x.shape[0], m, n, tape.n_x
        memory = tuple([None if d is None else memory_of(d) for d in cotangents.states])
        keys = tuple(tape.parameters)
        job, readings = _backward_pass(tape.cell, dtype, sizes, tape.indices, keys, lengths is not None, memory)
        given = [r.of(d) for r, d in zip(readings, cotangents.states, strict=True) if r and d is not None]
        pairs = zip(cotangents.final, tape.states, strict=True)
        ds = [np.zeros(S.shape[1:], dtype) if d is None else np.array(d.T, order="C") for d, S in pairs]
        own, kept = tape.own, None
        if own is None:
            at_parameters, kept = job.kept.allocate()
            for array, value in zip(kept, tape.parameters.values(), strict=True):
                array[...] = value
        else:
            at_parameters = own.parameters
        values: list[np.ndarray] = []
        if own is not None and all(map(operator.is_, own.tape, (tape.states, tape.saved, x))):
            at_values = own.values
        else:
            X = np.ascontiguousarray(x, np.int64) if tape.indices else x
            values = contiguous([*tape.states, *(tape.saved or ()), X, *tape.inputs])
            at_values = addresses(values)
        at, gradients = job.block.allocate()
        dx = None if tape.indices else empty(x.shape, dtype)
        d_inputs = [empty((x.shape[0], m, job.units(name)), dtype) for name in tape.cell.inputs]
        results = [*ds, *d_inputs] if dx is None else [*ds, *d_inputs, dx]
        job.run([*at_values, at_parameters, at, *addresses([*results, *given])], lengths)
        named = dict(zip(job.block.names, contiguous(gradients), strict=True))
        d_extra = tuple([d.T for d in d_inputs])
        return Gradients(None if dx is None else dx.T, tuple([d.T for d in ds]), named, d_extra)

    def matmul(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return dense.matmul(a, b, bias)

    def stepper(self, call: Call) -> CpuStepper:
        return CpuStepper(call)


ENGINE: Engine = CpuEngine()


def _final(states: Arrays, lengths: np.ndarray | None) -> Arrays:
    """Copy the states, (T + 1, m, n), after each example's last step, as (1, m, n)."""
    if lengths is None:
        return tuple([S[-1:].copy() for S in states])
    return tuple([S[lengths, np.arange(S.shape[1])][None] for S in states])


@lru_cache(maxsize=256)
def _forward_pass(
    cell: Cell,
    dtype: np.dtype,
    sizes: tuple[int, int],
    indices: bool,
    keys: tuple[str, ...],
    has_lengths: bool,
    keep: bool,
    memory: tuple[Any, ...],
) -> tuple[ForwardPass, tuple[Reading, ...]]:
    """Return the pass for a call with parameters `keys`, and how it reads x and the extra inputs, of `memory`."""
    (n, n_x), (m, n_steps) = sizes, memory[0][0][-2:]
    own = tuple(recurrent_parameters(cell, dict.fromkeys(keys)))
    key = PassKey(cell, dtype, n_steps, m, n, n_x, indices, own, has_lengths)
    arrays = memory[1:] if indices else memory
    readings = [reading(of, dtype.itemsize) for of in arrays]
    copy = keep or has_lengths
    layouts = [r.layout if copy or not r.layout.time_major else None for r in readings]
    if indices:  # are read in place
        readings, layouts = [TIME_MAJOR, *readings], [None, *layouts]
    return ForwardPass(key, keep, tuple(layouts)), tuple(readings)


@lru_cache(maxsize=256)
def _backward_pass(
    cell: Cell,
    dtype: np.dtype,
    sizes: tuple[int, int, int, int],
    indices: bool,
    keys: tuple[str, ...],
    has_lengths: bool,
    memory: tuple[Any, ...],
) -> tuple[BackwardPass, tuple[Reading | None, ...]]:
    """Return the pass for a tape of `sizes` T, m, n and n_x, and how it reads the cotangents, of `memory`."""
    n_steps, m, n, n_x = sizes
    readings = tuple([None if of is None else reading(of, dtype.itemsize) for of in memory])
    key = PassKey(cell, dtype, n_steps, m, n, n_x, indices, keys, has_lengths)
    return BackwardPass(key, tuple([r and r.layout for r in readings])), readings


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
    pool()
