"""Passes that are kept with their memory, and recorded: a loop over time is then one launch.

A recording has addresses in it, so its memory stays where it is. What a forward pass hands out for its backward pass
lies in that memory; as long as something refers to it the plan is taken, and the next call has another one.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator

from rnnx.engines.gpu.backward import Backward, Given
from rnnx.engines.gpu.device import Queue
from rnnx.engines.gpu.forward import Forward
from rnnx.engines.gpu.pass_key import Setup

MOST = 16  # plans of a queue
IDLE = 64  # forward calls after which an unused plan may make room for another


class Recorded:
    """Work that is done as it is the first time, and recorded then."""

    def __init__(self, queue: Queue, work: Callable[[], None]) -> None:
        self._queue, self._work = queue, work
        self._run: Callable[[], None] = self._first

    def __call__(self) -> None:
        """Do the work."""
        self._run()

    def _first(self) -> None:
        self._work()
        self._run = self._queue.record(self._work) or self._work


class Plan:
    """A forward pass, and the backward passes that followed it."""

    def __init__(self, queue: Queue, forward: Forward) -> None:
        self.queue, self.forward, self.used = queue, forward, 0
        self.run_forward = Recorded(queue, forward.loop)
        self._backward: dict[Hashable, tuple[Backward, Recorded]] = {}
        self._alone = queue.references(forward.held.memory)

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.forward.size + sum(backward.size for backward, _ in self._backward.values())

    @property
    def free(self) -> bool:
        """Whether nobody can see what the last call left in its memory."""
        return self._alone is not None and self.queue.references(self.forward.held.memory) == self._alone

    def backward(self, external: tuple[bool, ...], given: Given) -> tuple[Backward, Recorded]:
        """The backward pass with cotangents of these states from outside."""
        key = external, self.queue.precision
        if key not in self._backward:
            backward = Backward(self.queue, self.forward.setup, external, given)
            self._backward[key] = backward, Recorded(self.queue, backward.loop)
        return self._backward[key]


class Plans:
    """The plans of a queue: of every setup that came twice, as far as there is room."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._plans: dict[Hashable, list[Plan]] = {}
        self._seen: Counter[Hashable] = Counter()
        self._clock = itertools.count(1)

    def __iter__(self) -> Iterator[Plan]:
        return (plan for plans in self._plans.values() for plan in plans)

    def take(self, setup: Setup) -> Plan | None:
        """A plan for a call, or None: its setup came for the first time, or there is no room for it."""
        if not self._queue.records:
            return None
        now, key = next(self._clock), (setup, self._queue.precision)
        plan = next((plan for plan in self._plans.get(key, ()) if plan.free), None)
        if plan is None:
            self._seen[key] += 1
            if len(self._seen) > 8 * MOST:  # setups without end
                self._seen = Counter({key: self._seen[key]})
            if self._seen[key] < 2 or not self._make_room(setup.size, now):
                return None
            try:
                plan = Plan(self._queue, Forward(self._queue, setup))
            except MemoryError:  # it needs more at a time than the pass as it is
                for unused in [plan for plan in self if plan.free]:
                    self._drop(unused)
                return None
            self._plans.setdefault(key, []).append(plan)
        plan.used = now
        return plan

    def _make_room(self, size: int, now: int) -> bool:
        """Let go of plans that nothing has used for long; whether there is room then."""
        held = sum(plan.size for plan in self)
        idle = sorted((plan for plan in self if plan.free and now - plan.used > IDLE), key=lambda plan: plan.used)
        while (held + size > self._queue.room or len(list(self)) >= MOST) and idle:
            held -= idle[0].size
            self._drop(idle.pop(0))
        return held + size <= self._queue.room and len(list(self)) < MOST

    def _drop(self, gone: Plan) -> None:
        for key, plans in list(self._plans.items()):
            self._plans[key] = [plan for plan in plans if plan is not gone]
            if not self._plans[key]:
                del self._plans[key]
                del self._seen[key]
