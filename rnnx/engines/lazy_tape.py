"""Tapes whose arrays are made when one is first used: most backward passes need none of them."""

from typing import Any, Protocol

from rnnx.engines.protocol import Tape


class Plan(Protocol):
    """What all calls like one have in common."""

    key: Any  # with the sizes n, m, n_steps
    keep: bool
    known: dict[str, Any]  # the fields cell, xp, dtype, indices, n_x

    def fields(self, run: Any) -> dict[str, Any]:
        """Return the fields that the tape of a run lacks."""


class LazyTape(Tape):
    """A tape without most arrays. At the first use of one, it makes all, and becomes an ordinary `Tape`.

    `_run` is what an engine's pass has left; its `plan` is a `Plan`.
    """

    _run: Any

    def made(self) -> Tape:
        """Make the arrays."""
        run = self.__dict__.get("_run")
        if run is not None:  # else another thread has made them
            self.__dict__.update(run.plan.fields(run))
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


def run_of(tape: Tape) -> Any:
    """Return the run that left a tape whose arrays have not been made; else None."""
    return tape.__dict__.get("_run")


def made(name: str) -> Any:
    """Return the property of a field that is made with the others."""
    return property(lambda tape: getattr(tape.made(), name))


for _name in ("x", "states", "saved", "parameters", "own", "inputs"):
    setattr(LazyTape, _name, made(_name))
