"""What a forward pass leaves for the backward pass, and for those who look at it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from rnnx.cells.wiring import wiring
from rnnx.engines.gpu.device import Arena, Array, DeviceStream, Results
from rnnx.engines.gpu.graphs import CapturedPass
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.lazy_tape import LazyTape, made
from rnnx.engines.protocol import Arrays


class Run(NamedTuple):
    """What is left of a forward pass, for its backward pass."""

    plan: Any  # a `plans.ForwardPlan`
    arena: Arena  # the memory that the pass keeps
    captured: CapturedPass | None  # the owner of the memory, if the pass is captured
    held: Any  # a reference because of which the memory is in use


class Finished(NamedTuple):
    """What is left of a forward pass that no backward pass may follow."""

    plan: Any  # a `plans.ForwardPlan`
    stream: DeviceStream
    results: Results
    memory: Any  # of the results
    given: Arrays  # of the call
    lengths: Array | None


class TapeMemory(NamedTuple):
    """The engine's part of a tape, `Tape.own`."""

    key: PassKey
    arena: Arena  # with the packed parameters
    captured: CapturedPass | None  # the owner of the memory, if the pass is captured


class GpuTape(LazyTape):
    """See `LazyTape`."""

    def __init__(self, run: Run | Finished) -> None:
        self.__dict__.update(run.plan.known)
        self._run, self.sources = run, {}

    lengths = made("lengths")


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
