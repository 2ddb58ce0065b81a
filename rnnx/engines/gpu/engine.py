# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The engine for arrays on a GPU: copies between the caller's arrays and the memory of a pass. See README.md."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.layout import to_public
from rnnx.cells.parameters import recurrent_parameters
from rnnx.cells.wiring import wiring
from rnnx.engines.gpu.backward import Backward
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.graphs import CapturedPass
from rnnx.engines.gpu.kernel import C_TYPES
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.protocol import Arrays, Call, Cotangents, Gradients, Tape

StreamOf = Callable[[Array], AbstractContextManager[DeviceStream]]


class TapeMemory(NamedTuple):
    """The engine's part of a tape, `Tape.own`."""

    key: PassKey
    arena: Arena  # with the packed parameters
    captured: CapturedPass | None  # the owner of the memory, if the pass is captured


class PackedParameters(Mapping[str, Array]):
    """The parameters of a pass by key, made of packed arrays on first access."""

    def __init__(self, xp: Any, key: PassKey, arena: Arena) -> None:
        self._xp, self._key, self._arena = xp, key, arena

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        key, arena = self._key, self._arena
        arrays: dict[str, Array] = {}
        for stage in wiring(key.cell):
            for gate, rows, own in key.gate_rows(stage):
                w_x = w_h = None
                if "x" in gate.sides:
                    w_x = (arena.array("wx").T if key.indices else arena.array("wx"))[rows, :]
                if gate.bias:
                    arrays[gate.bias] = arena.array("b")[rows, None]
                if "h" in gate.sides:
                    w_h = arena.array(f"wh{stage.number}")[own, :]
                arrays |= gate.join(self._xp, w_x, w_h)
                if gate.recurrent_bias in key.optional_keys:
                    arrays[gate.recurrent_bias] = arena.array(f"bh{stage.number}")[own, None]
        return arrays | {name: arena.array(f"v{k}")[:, None] for k, name in enumerate(key.cell.vectors)}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._key.cell.parameter_keys, *self._key.optional_keys))

    def __len__(self) -> int:
        return len(tuple(iter(self)))


class GpuEngine:
    """See `rnnx.engines.protocol.Engine`. `stream_of` gives access to the stream of an array."""

    halves = True

    def __init__(self, stream_of: StreamOf) -> None:
        self._stream_of = stream_of

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        key, xp, states = PassKey.of(call, keep=keep), call.xp, range(len(call.cell.states))
        with self._stream_of(call.s0[0]) as stream:
            captured: CapturedPass | None = stream.graphs.take(key)
            work = captured.forward if captured else Forward(stream, key)
            work.load(call)
            work.run()
            S = tuple(work.kept.array(f"S{k}") for k in states)
            if keep or captured or key.has_lengths:
                outputs = tuple(_output(work, s) for s in S)
            else:  # no other reference to this memory
                outputs = tuple(s[1:, ...] for s in S)
            x, saved, own, inputs = call.x.T, None, None, ()
            parameters: Mapping[str, Array] = recurrent_parameters(call.cell, call.parameters)
            if keep:
                x, own = work.kept.array("X"), TapeMemory(key, work.kept, captured)
                saved = tuple(work.kept.array(f"K{k}") for k in range(len(call.cell.saved)))
                inputs = tuple(work.kept.array(f"E{k}") for k in range(len(call.cell.inputs)))
                parameters = PackedParameters(xp, key, work.kept)
            else:
                S = tuple(s[-1:, ...].copy() for s in S)
        kept = (call.lengths, parameters, own, inputs)
        tape = Tape(call.cell, xp, call.dtype, x, call.indices, call.n_x, S, saved, *kept)
        return tuple(to_public(xp, a) for a in outputs), tape

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        assert tape.saved is not None
        own: TapeMemory | None = tape.own
        key, arrays = PassKey.of(tape, keep=True), {"X": tape.x}
        arrays |= {f"S{k}": array for k, array in enumerate(tape.states)}
        arrays |= {f"K{k}": array for k, array in enumerate(tape.saved)}
        arrays |= {f"E{k}": array for k, array in enumerate(tape.inputs)}
        arrays = {name: ns.contiguous(tape.xp, array) for name, array in arrays.items()}
        with self._stream_of(arrays["X"]) as stream:
            arena = own.arena if own else Arena(stream, key.packed_shapes())
            addresses = arena.addresses | {name: stream.address(array) for name, array in arrays.items()}
            captured = own.captured if own and own.key == key else None
            # A CUDA graph is valid only for its stream and addresses.
            if captured and captured.stream is stream and addresses["S0"] == captured.forward.address("S0"):
                work = captured.backward(cotangents.states, addresses)
            else:
                work = Backward(stream, key, cotangents.states, addresses)
            if own is None:
                work.load_parameters(tape.parameters)
            work.load(cotangents, tape.lengths)
            work.run()
            return work.gradients(tape.xp)

    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        same = b.dtype == a.dtype and (bias is None or bias.dtype == a.dtype)
        if 0 in (*a.shape, *b.shape) or not same or a.dtype.name not in C_TYPES:
            return a @ b if bias is None else a @ b + bias
        with self._stream_of(a) as stream:
            (left, _a), (right, _b) = _matrix(stream, a), _matrix(stream, b)  # copies live until the end of the block
            memory = Arena(stream, {"product": ((a.shape[0], b.shape[1]), np.dtype(a.dtype))})
            stream.gemm(left, right, memory.matrix("product"))
            result = memory.array("product")
            if bias is not None:
                result += bias
            return result

    def stepper(self, call: Call) -> "GpuStepper":
        return GpuStepper(self._stream_of, call)


class GpuStepper:
    """See `rnnx.engines.protocol.Stepper`.

    Repeats a forward pass of one step in the same memory, alternately from S<k>[0] to S<k>[1] and back.
    """

    def __init__(self, stream_of: StreamOf, call: Call) -> None:
        self._stream_of, self._now = stream_of, 0  # index of the current states
        with stream_of(call.s0[0]) as stream:
            self._work = Forward(stream, PassKey.of(call, keep=False))
            self._work.load_state(call)
            self._stages = [self._work.stages(now, 1 - now) for now in range(2)]
            states = [self._work.kept.array(f"S{k}") for k in range(len(call.cell.states))]
            self._states = [tuple(state[now, ...].T for state in states) for now in range(2)]

    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        with self._stream_of(xt) as stream:
            self._work.stream = stream  # the caller may have changed streams
            self._work.project(xt)
            self._work.load_inputs(inputs)
            self._work.step(self._stages[self._now], 0)
            self._now = 1 - self._now
            return self._states[self._now]

    def set(self, states: Arrays) -> None:
        with self._stream_of(states[0]):
            for own, given in zip(self._states[self._now], states, strict=True):
                own[...] = given


def _output(work: Forward, states: Array) -> Array:
    """Copy the states after every step, (T, m, n), with zeros past each length."""
    key, shape = work.key, (work.key.n_steps, work.key.m, work.key.n)
    memory = Arena(work.stream, {"S": (shape, key.dtype)})
    target, lengths = memory.addresses["S"], work.address("lengths")
    work.to_time_major(states[1:, ...].T, target, shape, lengths)
    return memory.array("S")


def _matrix(stream: DeviceStream, a: Array) -> tuple[Matrix, Any]:
    """Return an array as a matrix, and the array that owns it: a copy unless rows or columns are contiguous."""
    for transposed, array in ((False, a), (True, a.T)):
        by_row, by_column = stream.strides(array)
        rows, columns = array.shape
        if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
            stride, dtype = max(by_row, columns), np.dtype(a.dtype)
            return Matrix(stream.address(array), rows, columns, stride, dtype, transposed), array
    return _matrix(stream, a.copy())
