# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""The engine for arrays on a GPU: copies between the caller's arrays and the memory of a pass. See README.md."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.gpu import masks
from rnnx.engines.gpu.copies import Numbers, Transfer
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Matrix, Stack
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.kernel import C_TYPES
from rnnx.engines.gpu.operations import GpuOperations
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.plans import ForwardPlan, StreamOf, captured_backward, lengths_of, new_backward
from rnnx.engines.protocol import Arrays, Call, Cotangents, Gradients, StepCapture, Tape


class GpuEngine:
    """See `rnnx.engines.protocol.Engine`. `stream_of` gives access to the stream of an array."""

    halves = copies_values = True

    def __init__(self, stream_of: StreamOf, steps: StepCapture | None = None) -> None:
        self._stream_of, self.steps, self.operations = stream_of, steps, GpuOperations(stream_of)

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        return self.prepared(call, keep=keep)((call.x, *call.s0, *call.inputs, *call.parameters.values()), call.lengths)

    def prepared(
        self, call: Call, *, keep: bool, zero: tuple[bool, ...] = ()
    ) -> Callable[[Arrays, Array | None], tuple[Arrays, Tape]]:
        key = PassKey.of(call, keep=keep)
        return ForwardPlan(self._stream_of, call.xp, key, tuple(call.parameters), zero or (False,) * len(call.s0)).run

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        assert tape.has_saved
        given = next((d for d in (*cotangents.states, *cotangents.final) if d is not None), None)
        with self._stream_of(tape.states[0] if given is None else given) as stream:
            work = captured_backward(stream, tape, cotangents) or new_backward(stream, tape, cotangents)
            return work.of(cotangents, lengths_of(tape), tape.parameters if work.packs else {})

    def prepared_backward(
        self, tape: Tape, cotangents: tuple[Array | None, ...]
    ) -> Callable[[Tape, Arrays], Gradients]:
        count, is_given = len(tape.cell.states), [d is not None for d in cotangents]

        def run(tape: Tape, given: Arrays) -> Gradients:
            left = iter(given)
            found = tuple([next(left) if one else None for one in is_given])
            return self.backward(tape, Cotangents(found[:count], found[count:]))

        return run

    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        same = b.dtype == a.dtype and (bias is None or bias.dtype == a.dtype)
        if 0 in (*a.shape, *b.shape) or not same or a.dtype.name not in C_TYPES:
            return a @ b if bias is None else a @ b + bias
        with self._stream_of(a) as stream:
            left, right = _Operand.of(stream, a), _Operand.of(stream, b)  # copies live until the end of the block
            memory = Arena(stream, {"product": ((*a.shape[:-1], b.shape[-1]), np.dtype(a.dtype))})
            into = memory.matrix("product")
            if a.ndim == 2:
                stream.gemm(left.matrix, right.matrix, into)
            else:
                rows = a.shape[1]
                distances = left.distance, right.distance, rows * into.columns
                stream.gemm(left.matrix, right.matrix, into._replace(rows=rows), stack=Stack(a.shape[0], distances))
            result = memory.array("product")
            if bias is not None:
                result += bias
            return result

    def kept(
        self, key: Array, start: int, rate: float, shape: tuple[int, int, int], like: Array, value: float = 1.0
    ) -> Array:
        """Return a mask (n, m, T) of the dtype of an array; see `rnnx.engines.protocol.Engine`."""
        with self._stream_of(like) as stream:
            return masks.kept(stream, key, start, rate, shape, like.dtype, value).T

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
            start.send(numbers.of(stream, [*(call.parameters[name] for name in work.key.parameter_keys), *call.s0]))
            start.copy(0)
            self._numbers = Numbers()
            self._inputs = Transfer(stream, work.launch, self._numbers, work.input_copies(self._numbers))
            self._stages = [work.stages(now, 1 - now) for now in range(2)]
            states = [work.kept.array(f"S{k}") for k in range(len(call.cell.states))]
            self._states = [tuple(state[now, ...].T for state in states) for now in range(2)]

    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        with self._stream_of(xt) as stream:
            self._work.stream = self._inputs.stream = stream  # the caller may have changed streams
            self._inputs.send(self._numbers.of(stream, (xt, *inputs)))
            self._inputs.copy(0)
            self._work.project()
            self._work.step(self._stages[self._now], 0)
            self._now = 1 - self._now
            return self._states[self._now]

    def set(self, states: Arrays) -> None:
        with self._stream_of(states[0]):
            for own, given in zip(self._states[self._now], states, strict=True):
                own[...] = given


class _Operand(NamedTuple):
    """An array as a matrix, or a stack of matrices."""

    matrix: Matrix  # the first one
    distance: int  # in elements, from one matrix to the next
    owner: Any  # the array, or a copy of it

    @classmethod
    def of(cls, stream: DeviceStream, a: Array) -> "_Operand":
        """Return an array (i, k) or (m, i, k), which is copied unless rows or columns are contiguous."""
        for transposed, array in ((False, a), (True, a.swapaxes(-2, -1))):
            *distance, by_row, by_column = stream.strides(array)
            rows, columns = array.shape[-2:]
            if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
                stride, dtype = max(by_row, columns), np.dtype(a.dtype)
                matrix = Matrix(stream.address(array), rows, columns, stride, dtype, transposed)
                return cls(matrix, distance[0] if distance else 0, array)
        return cls.of(stream, a.copy())
