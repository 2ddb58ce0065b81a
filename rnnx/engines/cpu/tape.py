"""The tape of a forward pass: one allocation, whose arrays are made when one is first used."""

import operator
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines.protocol import Arrays, Tape


class Run(NamedTuple):
    """What is left of a forward pass."""

    plan: Any  # a `ForwardPlan`
    memory: np.ndarray  # of ``plan.job.block``
    given: Sequence[np.ndarray]  # the sequences, initial states and parameters that the job has read, as far as needed
    final: Arrays  # copies of the final states, (1, m, n); empty with ``keep``


class Kept(NamedTuple):
    """The `own` of a tape: the run, and the arrays made of it, which differ on a tape of some of the steps."""

    run: Run
    arrays: tuple[Any, ...]  # states, saved values, x


def run_of(tape: Tape) -> Run | None:
    """Return the run that left a tape, if its arrays are those of that run, which then need not exist."""
    run: Run | None = tape.__dict__.get("_run")
    if run is None and isinstance(tape.own, Kept):
        arrays = tape.states, tape.saved, tape.x
        run = tape.own.run if all(map(operator.is_, tape.own.arrays, arrays)) else None
    return run


class CpuTape(Tape):
    """A tape without most arrays. At the first use of one, it makes all, and becomes an ordinary `Tape`."""

    sources: Any = MappingProxyType({})

    def __init__(self, run: Run, lengths: np.ndarray | None) -> None:
        self._run, self.lengths = run, lengths

    def made(self) -> Tape:
        """Make the arrays."""
        run = self.__dict__.get("_run")
        if run is not None:  # else another thread has made them
            self.__dict__.update({"sources": dict(self.sources), **run.plan.known, **run.plan.fields(run)})
            self.__class__ = Tape  # type: ignore[assignment]
            self.__dict__.pop("_run", None)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tape.__reduce_ex__(self.made(), protocol)

    @property
    def kind(self) -> Any:
        """See `Tape`."""
        return self._run.plan

    @property
    def has_saved(self) -> bool:
        """See `Tape`."""
        return bool(self._run.plan.keep)

    @property
    def final(self) -> Arrays:
        """See `Tape`."""
        return tuple([s[0] for s in self._run.final or self._run.plan.final(self._run.memory)])

    @property
    def n_a(self) -> int:
        """See `Tape`."""
        return int(self._run.plan.key.n)

    @property
    def m(self) -> int:
        """See `Tape`."""
        return int(self._run.plan.key.m)

    @property
    def n_steps(self) -> int:
        """See `Tape`."""
        return int(self._run.plan.key.n_steps)


def _known(name: str) -> Any:
    def value(tape: CpuTape) -> Any:
        run = tape.__dict__.get("_run")
        return tape.__dict__[name] if run is None else run.plan.known[name]

    return property(value)


def _made(name: str) -> Any:
    return property(lambda tape: getattr(tape.made(), name))


for _name in ("cell", "xp", "dtype", "indices", "n_x"):
    setattr(CpuTape, _name, _known(_name))


for _name in ("x", "states", "saved", "parameters", "own", "inputs"):
    setattr(CpuTape, _name, _made(_name))
