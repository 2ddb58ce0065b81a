"""Sums over the parts of a step, which the ranks of a group have computed."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.training.distributed.group import Group

Arrays = dict[str, Array]


class Flat:
    """Gradients of some parameters as one array, padded to a multiple of the number of ranks."""

    def __init__(self, parameters: Mapping[str, Array], ranks: int) -> None:
        self.shapes = {f"d{name}": tuple(p.shape) for name, p in parameters.items()}
        self._like = next(iter(parameters.values()))
        self._xp, self._ranks = ns.namespace(self._like), ranks
        size = sum(map(math.prod, self.shapes.values()))
        self.size, self._padding = size, -size % ranks

    def zeros(self, n: int | None = None) -> Array:
        """Return n zeros; default: the gradients of a rank without a part."""
        n = self.size + self._padding if n is None else n
        return self._xp.zeros((n,), dtype=self._like.dtype, device=ns.device(self._like))

    def join(self, gradients: Mapping[str, Array]) -> Array:
        """Join gradients in the order of the parameters."""
        pieces = [self._xp.reshape(gradients[name], (-1,)) for name in self.shapes]
        return engines.joined(self._xp, [*pieces, self.zeros(self._padding)] if self._padding else pieces)

    def split(self, flat: Array) -> Arrays:
        """Return the single gradients, as views where the library has views."""
        at, found = 0, {}
        for name, shape in self.shapes.items():
            found[name] = self._xp.reshape(flat[at : at + math.prod(shape)], shape)
            at += math.prod(shape)
        return found


class Sum(Protocol):
    """A sum of the gradients of all parts of a step; every rank adds those of its own parts, and then asks for it."""

    def add(self, gradients: Mapping[str, Array] | None) -> None:
        """Add a part of this rank; None where another rank has one part more."""

    def total(self) -> Arrays:
        """Return the sum on all ranks."""


class Ordered:
    """The sum in the order of the parts, with the same bits for any number of ranks.

    In every round each rank has the next part, or, in the last round, none. It sends every rank a slice of the part's
    gradients, and adds up, in order, the slices that it receives. At the end the ranks gather the sums of their slices.
    With as many parts as ranks, this takes as many bytes as an all-reduce.
    """

    def __init__(self, group: Group, parameters: Mapping[str, Array], n_parts: int) -> None:
        self._group, self._flat, self._left = group, Flat(parameters, group.size), n_parts
        self._sum: Array | None = None  # of the slice of this rank

    def add(self, gradients: Mapping[str, Array] | None) -> None:
        """See `Sum`."""
        flat, size = self._flat, self._group.size
        own = flat.zeros() if gradients is None else flat.join(gradients)
        received = self._group.exchange(ns.namespace(own).reshape(own, (size, -1)))
        for k in range(min(size, self._left)):
            self._sum = received[k, :] if self._sum is None else self._sum + received[k, :]
        self._left -= size

    def total(self) -> Arrays:
        """See `Sum`."""
        rows = self._group.gather(self._sum)
        return self._flat.split(ns.namespace(rows).reshape(rows, (-1,)))


class Fast:
    """The sum of an all-reduce, which may differ in the last bits, also for the same number of ranks.

    Gradients of the last part may be given early, to `ready`, so that they travel while the others are computed.
    """

    def __init__(self, group: Group, parameters: Mapping[str, Array]) -> None:
        self._group, self._parameters = group, {f"d{name}": p for name, p in parameters.items()}
        self._own: Arrays = {}  # the sums of the parts of this rank
        self._early: set[str] = set()
        self._started: list[tuple[Flat, Callable[[], Array]]] = []

    def add(self, gradients: Mapping[str, Array] | None) -> None:
        """See `Sum`."""
        gradients = gradients or {}
        for name in self._parameters:
            if name in gradients and name not in self._early:
                own = self._own
                own[name] = own[name] + gradients[name] if name in own else gradients[name]

    def ready(self, gradients: Mapping[str, Array]) -> None:
        """Add some gradients of the last part, which all ranks have, and begin to sum them."""
        self.add(gradients)
        self._start([name for name in self._parameters if name in gradients and name not in self._early])

    def total(self) -> Arrays:
        """See `Sum`."""
        self._start([name for name in self._parameters if name not in self._early])
        found: Arrays = {}
        for flat, wait in self._started:
            found |= flat.split(wait())
        return {name: found[name] for name in self._parameters}

    def _start(self, names: list[str]) -> None:
        if names:
            flat = Flat({name[1:]: self._parameters[name] for name in names}, 1)
            self._started.append((flat, self._group.start_sum(flat.join(self._own) if self._own else flat.zeros())))
            self._early |= set(names)
