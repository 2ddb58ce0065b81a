# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The engine for arrays on a GPU: copies between the caller's arrays and the memory of a pass. See README.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.layout import to_public
from rnnx.cells.parameters import recurrent_parameters
from rnnx.cells.wiring import wiring
from rnnx.engines.gpu import masks
from rnnx.engines.gpu.backward import Backward
from rnnx.engines.gpu.copies import Numbers, Transfer
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.graphs import CapturedPass
from rnnx.engines.gpu.kernel import C_TYPES
from rnnx.engines.gpu.operations import GpuOperations
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.protocol import Arrays, Call, Cotangents, Gradients, StepCapture, Tape

StreamOf = Callable[[Array], AbstractContextManager[DeviceStream]]


class TapeMemory(NamedTuple):
    """The engine's part of a tape, `Tape.own`."""

    key: PassKey
    arena: Arena  # with the packed parameters
    captured: CapturedPass | None  # the owner of the memory, if the pass is captured


class SavedValues(Sequence[Array]):
    """The saved values of a pass, made arrays on first access. Until then, the states keep the memory in use."""

    def __init__(self, arena: Arena, count: int) -> None:
        self._arena, self._count = arena, count

    @cached_property
    def _arrays(self) -> tuple[Array, ...]:
        return tuple([self._arena.array(f"K{k}") for k in range(self._count)])

    def __getitem__(self, index: Any) -> Any:
        return self._arrays[index]

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._arrays,)  # copies are independent of the memory of the pass


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

    def __init__(self, stream_of: StreamOf, steps: StepCapture | None = None) -> None:
        self._stream_of, self.steps, self.operations = stream_of, steps, GpuOperations(stream_of)

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        key, xp, states = PassKey.of(call, keep=keep), call.xp, range(len(call.cell.states))
        with self._stream_of(call.s0[0]) as stream:
            captured: CapturedPass | None = stream.graphs.take(key)
            work = captured.forward if captured else Forward(stream, key, x=call.x)
            results = work.of(call)
            if "S0" in results:
                outputs = tuple([results[f"S{k}"] for k in states])
            else:  # no other reference to this memory
                outputs = tuple([to_public(xp, work.kept.array(f"S{k}")[1:, ...]) for k in states])
            saved: Sequence[Array] | None = None
            if keep:
                array, own = work.kept.array, TapeMemory(key, work.kept, captured)
                x, S = array("X"), tuple([array(f"S{k}") for k in states])
                saved = SavedValues(work.kept, len(call.cell.saved))
                inputs = tuple([array(f"E{k}") for k in range(len(call.cell.inputs))])
                parameters: Mapping[str, Array] = PackedParameters(xp, key, work.kept)
            else:
                x, own, inputs, S = call.x.T, None, (), tuple([results[f"final{k}"] for k in states])
                parameters = recurrent_parameters(call.cell, call.parameters)
        kept = (call.lengths, parameters, own, inputs)
        return outputs, Tape(call.cell, xp, call.dtype, x, call.indices, call.n_x, S, saved, *kept)

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        assert tape.saved is not None
        own: TapeMemory | None = tape.own
        with self._stream_of(tape.states[0]) as stream:
            work = self._captured_backward(stream, tape, cotangents) or self._new_backward(stream, tape, cotangents)
            return work.of(cotangents, tape.lengths, {} if own else tape.parameters)

    def _captured_backward(self, stream: DeviceStream, tape: Tape, cotangents: Cotangents) -> Backward | None:
        """Return the captured pass of a tape; None if there is none for this stream and exactly these arrays."""
        own: TapeMemory | None = tape.own
        if not own or not own.captured or own.captured.stream is not stream or not stream.can_capture:
            return None
        if own.key.n_steps != tape.n_steps:
            return None
        if own.arena.addresses["S0"] != stream.address(tape.states[0]):
            return None
        return own.captured.backward(cotangents.states, own.arena.addresses)

    def _new_backward(self, stream: DeviceStream, tape: Tape, cotangents: Cotangents) -> Backward:
        assert tape.saved is not None
        own: TapeMemory | None = tape.own
        key, arrays = PassKey.of(tape, keep=True), {"X": tape.x}
        arrays |= {f"S{k}": array for k, array in enumerate(tape.states)}
        arrays |= {f"K{k}": array for k, array in enumerate(tape.saved)}
        arrays |= {f"E{k}": array for k, array in enumerate(tape.inputs)}
        arrays = {name: ns.contiguous(tape.xp, array) for name, array in arrays.items()}
        arena = own.arena if own else Arena(stream, key.packed_shapes())
        addresses = arena.addresses | {name: stream.address(array) for name, array in arrays.items()}
        return Backward(stream, key, cotangents.states, addresses, packs=own is None, kept_alive=(arena, arrays))

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

    def kept(self, key: Array, start: int, rate: float, shape: tuple[int, int, int], like: Array) -> Array:
        """Return a mask (n, m, T) of the dtype of an array; see `rnnx.engines.protocol.Engine`."""
        with self._stream_of(like) as stream:
            return masks.kept(stream, key, start, rate, shape, like.dtype).T

    def stepper(self, call: Call) -> "GpuStepper":
        return GpuStepper(self._stream_of, call)


class GpuStepper:
    """See `rnnx.engines.protocol.Stepper`.

    Repeats a forward pass of one step in the same memory, alternately from S<k>[0] to S<k>[1] and back.
    """

    def __init__(self, stream_of: StreamOf, call: Call) -> None:
        self._stream_of, self._now = stream_of, 0  # index of the current states
        with stream_of(call.s0[0]) as stream:
            work = self._work = Forward(stream, PassKey.of(call, keep=False))
            numbers = Numbers()
            copies = [*work.parameter_copies(numbers), *work.state_copies(numbers)]
            start = Transfer(stream, work.launch, numbers, copies)
            start.send(work.state_numbers(call))
            start.copy(0)
            numbers = Numbers()
            self._inputs = Transfer(stream, work.launch, numbers, work.input_copies(numbers))
            self._stages = [work.stages(now, 1 - now) for now in range(2)]
            states = [work.kept.array(f"S{k}") for k in range(len(call.cell.states))]
            self._states = [tuple(state[now, ...].T for state in states) for now in range(2)]

    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        with self._stream_of(xt) as stream:
            self._work.stream = self._inputs.stream = stream  # the caller may have changed streams
            self._inputs.send(self._work.input_numbers(xt, inputs))
            self._inputs.copy(0)
            self._work.project()
            self._work.step(self._stages[self._now], 0)
            self._now = 1 - self._now
            return self._states[self._now]

    def set(self, states: Arrays) -> None:
        with self._stream_of(states[0]):
            for own, given in zip(self._states[self._now], states, strict=True):
                own[...] = given


def _matrix(stream: DeviceStream, a: Array) -> tuple[Matrix, Any]:
    """Return an array as a matrix, and the array that owns it: a copy unless rows or columns are contiguous."""
    for transposed, array in ((False, a), (True, a.T)):
        by_row, by_column = stream.strides(array)
        rows, columns = array.shape
        if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
            stride, dtype = max(by_row, columns), np.dtype(a.dtype)
            return Matrix(stream.address(array), rows, columns, stride, dtype, transposed), array
    return _matrix(stream, a.copy())
