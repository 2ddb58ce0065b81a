# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The compiled engine for NumPy arrays: allocates the arrays of a pass and runs it. Start with README.md."""

import itertools

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.parameters import expected_shapes, recurrent_parameters
from rnnx.engines.cpu import dense
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import Layout, contiguous, layout_of
from rnnx.engines.cpu.descriptor.stages import kernels_of
from rnnx.engines.cpu.runtime.buffer_pool import empty
from rnnx.engines.cpu.runtime.thread_pool import pool
from rnnx.engines.cpu.stepper import CpuStepper
from rnnx.engines.protocol import Arrays, Call, Cotangents, Engine, Gradients, Tape


class CpuEngine:
    """See `rnnx.engines.protocol.Engine`."""

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        cell, dtype, lengths, n_states = call.cell, call.dtype, call.lengths, len(call.s0)
        n, m = call.s0[0].shape
        n_steps = call.x.shape[-1]
        copy = keep or lengths is not None
        x, layout = _indices(call) if call.indices else _readable(call.x, copy)
        arrays, layouts = {"x": x}, [layout]
        for k, e in enumerate(call.inputs):
            arrays[f"input {k}"], own_layout = _readable(e, copy)
            layouts.append(own_layout)
        parameters = recurrent_parameters(cell, call.parameters)
        keys = tuple(parameters)
        key = PassKey(cell, dtype, n_steps, m, n, call.n_x, call.indices, keys, lengths is not None)
        job = ForwardPass(key, keep, tuple(layouts))
        memory, block = job.block.allocate()
        end = n_states + len(cell.saved)
        states, saved = tuple(block[:n_states]), tuple(block[n_states:end])
        for S, s in zip(states, call.s0, strict=True):
            S[0] = s.T
        outputs = [empty((n_steps, m, S.shape[2]), dtype) for S in states[: len(job.outputs)]]
        arrays["block"] = memory
        arrays |= zip(job.parameters, contiguous(parameters.values()), strict=True)
        arrays |= zip(job.outputs, outputs, strict=True)
        own = kept = None
        inputs: Arrays = ()
        if keep:
            own, kept, inputs = block[-len(keys) :], saved, tuple(block[end + 1 : -len(keys)])
            parameters = dict(zip(keys, own, strict=True))
        job.run(arrays, lengths)
        if not outputs:
            outputs = [S[1:] for S in states]
        if not keep:
            states = tuple([S[-1:].copy() for S in states])
        X = x if layout is None else block[end]
        tape = Tape(cell, call.xp, dtype, X, call.indices, call.n_x, states, kept, lengths, parameters, own, inputs)
        return tuple([a.T for a in outputs]), tape

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        cell, dtype, lengths = tape.cell, tape.dtype, tape.lengths
        n_steps, m = tape.x.shape[:2]
        n, keys = tape.states[0].shape[2], tuple(tape.parameters)
        given = [None if d is None else layout_of(d) for d in cotangents.states]
        layouts = tuple([None if pair is None else pair[1] for pair in given])
        key = PassKey(cell, dtype, n_steps, m, n, tape.n_x, tape.indices, keys, lengths is not None)
        job = BackwardPass(key, layouts)
        pairs = zip(cotangents.final, tape.states, strict=True)
        ds = [np.zeros(S.shape[1:], dtype) if d is None else np.array(d.T, order="C") for d, S in pairs]
        kept = tape.own
        if kept is None:
            _, kept = job.kept.allocate()
            for array, value in zip(kept, tape.parameters.values(), strict=True):
                array[...] = value
        memory, gradients = job.block.allocate()
        X = np.ascontiguousarray(tape.x, np.int64) if tape.indices else tape.x
        arrays = {"block": memory, "kept parameters": kept[0]}
        arrays |= zip(job.values, contiguous([*tape.states, *(tape.saved or ()), *tape.inputs, X]), strict=True)
        arrays |= zip(job.d_states, ds, strict=True)
        arrays |= {name: pair[0] for name, pair in zip(job.d_given, given, strict=True) if pair is not None}
        dx = None if tape.indices else empty(tape.x.shape, dtype)
        if dx is not None:
            arrays["dx"] = dx
        d_inputs = [empty(e.shape, dtype) for e in tape.inputs]
        arrays |= zip(job.d_inputs, d_inputs, strict=True)
        job.run(arrays, lengths)
        named = dict(zip(job.block.names, contiguous(gradients), strict=True))
        d_extra = tuple([d.T for d in d_inputs])
        return Gradients(None if dx is None else dx.T, tuple([d.T for d in ds]), named, d_extra)

    def matmul(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return dense.matmul(a, b, bias)

    def stepper(self, call: Call) -> CpuStepper:
        return CpuStepper(call)


ENGINE: Engine = CpuEngine()


def _indices(call: Call) -> tuple[np.ndarray, None]:
    """Return the job's x for index inputs, which is never copied."""
    return np.asfortranarray(call.x, np.int64).T, None


def _readable(a: np.ndarray, copy: bool) -> tuple[np.ndarray, Layout | None]:
    """Return an array (features, m, T) for the job, and its layout if the job must copy it to time-major memory."""
    a, layout = layout_of(a)
    return a, layout if copy or not layout.time_major else None


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
