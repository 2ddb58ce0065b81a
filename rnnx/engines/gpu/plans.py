"""Passes for calls with arrays of the same kinds: all that depends on nothing else is decided once."""

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.layout import to_public
from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.gpu.backward import Backward
from rnnx.engines.gpu.device import Arena, Array, DeviceStream
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.graphs import CapturedPass
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.tape import Finished, GpuTape, PackedParameters, Run, SavedValues, TapeMemory
from rnnx.engines.lazy_tape import run_of
from rnnx.engines.protocol import Arrays, Cotangents, Tape

StreamOf = Callable[[Array], AbstractContextManager[DeviceStream]]


@lru_cache(maxsize=1024)
class ForwardPlan:
    """A forward pass.

    `keys`: of all parameters that `run` takes. `zero`: which initial states are zero and not among its arrays.
    """

    def __init__(
        self, stream_of: StreamOf, xp: Any, key: PassKey, keys: tuple[str, ...], zero: tuple[bool, ...]
    ) -> None:
        cell, self._keys = key.cell, keys
        self._stream_of, self._xp, self.key, self.keep = stream_of, xp, key, key.keep
        self.known = {"cell": cell, "xp": xp, "dtype": key.dtype, "indices": key.indices, "n_x": key.n_x}
        first = 1 + zero.count(False)  # after x and the states
        n_arrays = first + len(cell.inputs) + len(keys)  # then the lengths, and None
        place = {name: n_arrays - len(keys) + k for k, name in enumerate(keys)}
        of_state = iter(range(1, first))
        states = [n_arrays + 1 if is_zero else next(of_state) for is_zero in zero]
        others = [n_arrays] * key.has_lengths + [0, *range(first, first + len(cell.inputs))]
        self._given = operator.itemgetter(*(place[name] for name in key.parameter_keys), *states, *others)
        self._outputs = [f"S{k}" for k in range(len(cell.states))]

    def run(self, arrays: Arrays, lengths: Array | None) -> tuple[Arrays, Tape]:
        """Run the pass on x, the given initial states, the extra inputs and the parameters."""
        with self._stream_of(arrays[0]) as stream:
            captured: CapturedPass | None = stream.graphs.take(self.key)
            work = captured.forward if captured else Forward(stream, self.key, x=arrays[0])
            memory, arena = work.of(self._given((*arrays, lengths, None))), work.kept
            if work.returns_states:
                outputs = tuple([work.results.array(stream, memory, name) for name in self._outputs])
            else:  # no other reference to this memory
                outputs = tuple([to_public(self._xp, arena.array(name)[1:, ...]) for name in self._outputs])
            if self.keep:
                run: Run | Finished = Run(self, arena, captured, stream.reference(arena.memory))
            else:
                run = Finished(self, stream, work.results, memory, arrays, lengths)
        return outputs, GpuTape(run)

    def fields(self, run: Run | Finished) -> dict[str, Any]:
        """See `rnnx.engines.lazy_tape.Plan`."""
        if isinstance(run, Finished):
            parameters = dict(zip(self._keys, run.given[len(run.given) - len(self._keys) :], strict=True))
            final = [run.results.array(run.stream, run.memory, f"final{k}") for k in range(len(self._outputs))]
            fields = {"x": run.given[0].T, "states": tuple(final), "saved": None, "own": None, "inputs": ()}
            return {**fields, "lengths": run.lengths, "parameters": recurrent_parameters(self.key.cell, parameters)}
        cell, array = self.key.cell, run.arena.array
        return {
            "x": array("X"),
            "states": tuple([array(name) for name in self._outputs]),
            "lengths": array("lengths") if self.key.has_lengths else None,
            "saved": SavedValues(run.arena, len(cell.saved)),
            "inputs": tuple([array(f"E{k}") for k in range(len(cell.inputs))]),
            "parameters": PackedParameters(self._xp, self.key, run.arena),
            "own": TapeMemory(self.key, run.arena, run.captured),
        }


def lengths_of(tape: Tape) -> Array | None:
    """Return the lengths of a tape, if it has not been made, without making it."""
    run: Run | None = run_of(tape)
    if run is None:
        return tape.lengths
    return run.arena.array("lengths") if run.plan.key.has_lengths else None


def captured_backward(stream: DeviceStream, tape: Tape, cotangents: Cotangents) -> Backward | None:
    """Return the captured pass of a tape; None if there is none for this stream and exactly these arrays."""
    run: Run | None = run_of(tape)
    own = tape.own if run is None else TapeMemory(run.plan.key, run.arena, run.captured)
    if not own or not own.captured or own.captured.stream is not stream or not stream.can_capture:
        return None
    if run is None and own.key.n_steps != tape.n_steps:
        return None
    if run is None and own.arena.addresses["S0"] != stream.address(tape.states[0]):
        return None
    found: Backward = own.captured.backward(cotangents.states, own.arena.addresses)
    return found


def new_backward(stream: DeviceStream, tape: Tape, cotangents: Cotangents) -> Backward:
    """Return a pass for one call."""
    assert tape.saved is not None
    own: TapeMemory | None = tape.own
    key, arrays = PassKey.of(tape, keep=True), {"X": tape.x}
    for letter, values in (("S", tape.states), ("K", tape.saved), ("E", tape.inputs)):
        arrays |= {f"{letter}{k}": array for k, array in enumerate(values)}
    arrays = {name: ns.contiguous(tape.xp, array) for name, array in arrays.items()}
    arena = own.arena if own else Arena(stream, key.packed_shapes())
    addresses = arena.addresses | {name: stream.address(array) for name, array in arrays.items()}
    return Backward(stream, key, cotangents.states, addresses, packs=own is None, kept_alive=(arena, arrays))
