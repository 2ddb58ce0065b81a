"""Passes captured as CUDA graphs, so that a call is one launch, after one that sends its numbers (see `copies`).

A CUDA graph contains addresses, so a captured pass owns its memory. As long as a tape or an array refers to the memory,
the pass is in use, and the next call with the same key gets another one. The caller's arrays, and new memory for
results, may be freed as soon as a call returns, as with all work of the array library: their memory is used again only
by what is queued later on the same stream.
"""

import contextlib
import contextvars
import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from rnnx.engines.gpu.backward import Backward
from rnnx.engines.gpu.device import DeviceStream
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.pass_key import PassKey

MAX_PASSES = 16  # captured passes per stream
IDLE_CALLS = 64  # forward calls after which an unused captured pass may be dropped


# Whether passes become part of a capture of the current stream, rather than an error.
in_capture: contextvars.ContextVar[bool] = contextvars.ContextVar("rnnx_in_capture", default=False)


@contextlib.contextmanager
def part_of_capture() -> Iterator[None]:
    """Let passes inside the block take part in the caller's capture of the current stream.

    They run uncaptured, with memory from the current allocator, and the addresses of all arrays become part of the
    graph. No one else may get this memory for as long as the graph is used: the caller needs an allocator of its own.
    """
    token = in_capture.set(True)
    try:
        yield
    finally:
        in_capture.reset(token)


class CapturedPass:
    """A forward pass and its backward passes."""

    def __init__(self, stream: DeviceStream, key: PassKey) -> None:
        self.stream, self.key, self.last_used = stream, (key, stream.precision), 0
        self.forward = Forward(stream, key, captured=True)
        self._backward: dict[Hashable, Backward] = {}
        self._references = stream.references(self.forward.kept.memory)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        arenas = (self.forward.kept, self.forward.working, *(one.memory for one in self._backward.values()))
        return sum(arena.size for arena in arenas)

    @property
    def free(self) -> bool:
        """Whether nothing outside refers to its memory."""
        references = self._references
        return references is not None and self.stream.references(self.forward.kept.memory) == references

    def backward(self, given: Sequence[Any], tape: Mapping[str, int]) -> Backward:
        """Return the backward pass for the states with `given` cotangents."""
        key = tuple(d is not None for d in given), self.stream.precision
        if key not in self._backward:
            self._backward[key] = Backward(self.stream, self.forward.key, given, tape, captured=True)
        return self._backward[key]


class GraphCache:
    """The captured passes of a stream, for keys that occurred at least twice."""

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream
        self._passes: list[CapturedPass] = []
        self._calls: Counter[Hashable] = Counter()
        self._clock = itertools.count(1)

    def __iter__(self) -> Iterator[CapturedPass]:
        return iter(self._passes)

    def take(self, pass_key: PassKey) -> CapturedPass | None:
        """Return a free captured pass; None if the key is new or there is no room."""
        if not self._stream.can_capture:
            return None
        now, key = next(self._clock), (pass_key, self._stream.precision)
        found = next((one for one in self if one.key == key and one.free), None)
        if found is None:
            self._calls[key] += 1
            if len(self._calls) > 8 * MAX_PASSES:  # keep the counter small
                self._calls = Counter({key: self._calls[key]})
            if self._calls[key] < 2 or not self._make_room(pass_key.size, now):
                return None
            try:
                found = CapturedPass(self._stream, pass_key)
            except MemoryError:  # an uncaptured pass needs less memory at once
                for unused in [one for one in self if one.free]:
                    self._drop(unused)
                return None
            self._passes.append(found)
        found.last_used = now
        return found

    def _make_room(self, size: int, now: int) -> bool:
        """Drop long-idle captured passes; return whether there is room."""
        idle = sorted((p for p in self if p.free and now - p.last_used > IDLE_CALLS), key=lambda p: p.last_used)
        while not (room := self._has_room(size)) and idle:
            self._drop(idle.pop(0))
        return room

    def _has_room(self, size: int) -> bool:
        return sum(p.size for p in self) + size <= self._stream.graph_memory() and len(self._passes) < MAX_PASSES

    def _drop(self, dropped: CapturedPass) -> None:
        self._passes.remove(dropped)
        if all(one.key != dropped.key for one in self):
            del self._calls[dropped.key]
