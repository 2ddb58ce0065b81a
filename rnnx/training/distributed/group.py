"""What data-parallel training asks of the processes of a run, its ranks."""

from collections.abc import Callable
from typing import Any, Protocol

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array


class Group(Protocol):
    """The ranks of a run. Every method is called by all ranks in the same order, with arrays of the same shapes."""

    rank: int  # of this process, from 0
    size: int  # the number of ranks

    def exchange(self, rows: Array) -> Array:
        """Send row j of an array (size, n) to rank j; return the rows from all ranks in their order, (size, n)."""

    def gather(self, row: Array) -> Array:
        """Return the rows (n,) of all ranks in their order, (size, n)."""

    def start_sum(self, array: Array) -> Callable[[], Array]:
        """Begin to add up the arrays (n,) of all ranks, in any order; return a function that waits for the sum."""

    def collect(self, value: Any) -> list[Any]:
        """Return the plain values of all ranks in their order."""

    def abort(self, message: str) -> None:
        """End all ranks because of an error of this one, after printing one line."""


class Alone:
    """A group of one rank."""

    rank, size = 0, 1

    def exchange(self, rows: Array) -> Array:
        """See `Group`."""
        return rows

    def gather(self, row: Array) -> Array:
        """See `Group`."""
        return ns.namespace(row).reshape(row, (1, -1))

    def start_sum(self, array: Array) -> Callable[[], Array]:
        """See `Group`."""
        return lambda: array

    def collect(self, value: Any) -> list[Any]:
        """See `Group`."""
        return [value]

    def abort(self, message: str) -> None:
        """See `Group`; the error itself ends a single process."""


ALONE = Alone()


def check_alike(group: Group, what: str, value: Any) -> None:
    """Raise ValueError on all ranks unless a plain value is the same on all of them."""
    values = group.collect(value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise ValueError(f"{what} must be the same on all ranks; rank {rank} has {other}, rank 0 {values[0]}")
