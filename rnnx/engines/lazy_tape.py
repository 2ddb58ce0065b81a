"""Tapes whose arrays are made when one is first used: most backward passes need none of them."""

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from rnnx.engines.protocol import Tape


class Plan(Protocol):
    """What all calls like one have in common."""

    key: Any  # with the sizes n, m, n_steps
    keep: bool
    known: dict[str, Any]  # the fields cell, xp, dtype, indices, n_x

    def fields(self, run: Any) -> dict[str, Any]:
        """Return the fields that the tape of a run lacks."""


# Another thread may look at the same tape. A finalizer that does so has the lock already.
_lock = threading.RLock()


def _unlock() -> None:
    """Replace the lock in the child of a fork, where its holder does not exist."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def run_of(tape: Tape) -> Any:
    """Return the run that left a tape whose arrays have not been made; else None."""
    return tape.__dict__.get("_run")


def _make(tape: Tape) -> Tape:
    """Make the arrays of a tape, once: `own` says which ones they are."""
    with _lock:
        run = run_of(tape)
        fields = {} if run is None else run.plan.fields(run)
        if run_of(tape) is not None:
            tape.__dict__.update(fields)
            tape.__class__ = Tape
            tape.__dict__.pop("_run")
    return tape


def made(name: str) -> Any:
    """Return the property of a field that is made with the others."""
    return property(lambda tape: getattr(_make(tape), name))


def of_run(name: str, value: Callable[[Any], Any]) -> Any:
    """Return the property that has a value of the run, or that of `Tape` if another thread has just made the arrays."""
    of_arrays: Any = getattr(Tape, name)
    return property(lambda tape: of_arrays.fget(tape) if (run := run_of(tape)) is None else value(run))


class LazyTape(Tape):
    """A tape without most arrays. At the first use of one, it makes all, and becomes an ordinary `Tape`.

    `_run` is what an engine's pass has left; its `plan` is a `Plan`.
    """

    _run: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tape.__reduce_ex__(_make(self), protocol)

    kind = of_run("kind", lambda run: run.plan)
    has_saved = of_run("has_saved", lambda run: bool(run.plan.keep))
    n_a = of_run("n_a", lambda run: int(run.plan.key.n))
    m = of_run("m", lambda run: int(run.plan.key.m))
    n_steps = of_run("n_steps", lambda run: int(run.plan.key.n_steps))


for _name in ("x", "states", "saved", "parameters", "own", "inputs"):
    setattr(LazyTape, _name, made(_name))
