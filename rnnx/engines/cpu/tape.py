"""The tape of a forward pass: one allocation, whose arrays are made when one is first used."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rnnx.engines import lazy_tape
from rnnx.engines.protocol import Arrays, Tape


class Run(NamedTuple):
    """What is left of a forward pass."""

    plan: Any  # a `ForwardPlan`
    memory: np.ndarray  # of ``plan.job.block``
    given: Sequence[np.ndarray]  # the sequences, initial states and parameters that the job has read, as far as needed
    final: Arrays  # copies of the final states, (1, m, n); empty with ``keep``
    lengths: np.ndarray | None = None  # with ``keep``


class Kept(NamedTuple):
    """The `own` of a tape: the run, and the arrays made of it, which differ on a tape of some of the steps."""

    run: Run
    arrays: tuple[Any, ...]  # states, saved values, x


def run_of(tape: Tape) -> Run | None:
    """Return the run that left a tape, if its arrays are those of that run, which then need not exist."""
    run: Run | None = lazy_tape.run_of(tape)
    if run is None and isinstance(tape.own, Kept):
        arrays = tape.states, tape.saved, tape.x
        run = tape.own.run if all(map(operator.is_, tape.own.arrays, arrays)) else None
    return run


class CpuTape(lazy_tape.LazyTape):
    """See `LazyTape`."""

    def __init__(self, run: Run, lengths: np.ndarray | None) -> None:
        self.__dict__.update(run.plan.known)
        self._run, self.lengths, self.sources = run, lengths, {}

    final = lazy_tape.of_run("final", lambda run: tuple([s[0] for s in run.final or run.plan.final(run.memory)]))
