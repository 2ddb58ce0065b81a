"""What data-parallel training asks of the processes of a run, its ranks."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array

T = TypeVar("T")


class GroupError(ValueError):
    """An error that all ranks raise together."""


class Group(Protocol):
    """The ranks of a run. Every method is called by all ranks in the same order, with arrays of the same shapes."""

    rank: int  # of this process, from 0
    size: int  # the number of ranks

    def exchange(self, rows: Array) -> Array:
        """Send row j of an array (size, n) to rank j; return the rows from all ranks in their order, (size, n)."""

    def gather(self, row: Array) -> Array:
        """Return the rows (n,) of all ranks in their order, (size, n)."""

    def start_sum(self, array: Array) -> Callable[[], Array]:
        """Begin to add up the arrays (n,) of all ranks, in any order; return a function that waits for the sum.

        The array may be overwritten.
        """

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


def check_alike(group: Group, values: Mapping[str, Any]) -> None:
    """Raise `GroupError` unless the plain values that these names describe are the same on all ranks."""
    found = group.collect(dict(values))
    for rank, other in enumerate(found):
        for what, value in found[0].items():
            if other[what] != value:
                raise GroupError(f"{what} must be the same on all ranks; got {other[what]} on rank {rank}, not {value}")


def agreed(group: Group, work: Callable[[], T]) -> T:
    """Return the result of work that may fail on some ranks, and without calls of the group; then all ranks raise."""
    if group.size == 1:
        return work()
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as found:
        error = found
    messages = group.collect(None if error is None else _message(error))
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if not failed:
        return result  # type: ignore[return-value]
    where = "" if len(set(messages)) == 1 else f"rank {failed[0]}: "
    raise GroupError(where + messages[failed[0]]) from error


def digest(arrays: Mapping[str, Array]) -> str:
    """Return a short text that differs if an array does."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(ns.to_host(arrays[name])).tobytes())
    return found.hexdigest()[:12]


def _message(error: BaseException) -> str:
    """Return what an error says; one about a file begins with its name."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def any_rank(group: Group, value: int) -> int:
    """Return the largest of the numbers of all ranks."""
    if group.size == 1:
        return value
    return int(group.gather(np.array([value])).max())


@contextlib.contextmanager
def all_end(group: Group) -> Iterator[None]:
    """End all ranks if an error is one of this rank alone, so that they do not wait for it."""
    try:
        yield
    except (FloatingPointError, GroupError, GeneratorExit):  # all ranks have it
        raise
    except BaseException as error:
        if group.size > 1:
            group.abort(_message(error))
        raise
