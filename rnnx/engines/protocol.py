"""What an engine is: an object that runs whole passes over time.

Requirements
------------
* Arguments are never written to. Results belong to the caller: writing to them changes nothing that a later backward
  pass computes.
* `Engine.forward` takes and returns public layout, (n, m, T). Where it can, it returns F-ordered views of time-major
  memory (T, m, n), so that stacked layers pass arrays on without copies.
* From step ``lengths[j]`` on, the state of example j stays as it is; its outputs, saved values and cotangents there are
  zero, and nothing in the inputs or cotangents there, not even NaN, reaches a result.
* With ``keep=True`` the tape holds its arrays in memory that nobody else writes to: the caller may change `x` and the
  parameters before the backward pass.
* The same input gives the same bits, whatever the number of threads.
* The calls are thread-safe.
* An engine knows no cell by name: `rnnx.cells.wiring` tells what a stage reads, writes and saves, and the cell's own
  functions are its mathematics. A stage with ``additive=True`` needs one cotangent array for both sides.

Dimensions: T steps, m examples, n hidden units, n_x inputs, G gates of a stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells import Cell

Arrays = tuple[Array, ...]


@dataclass(frozen=True)
class Call:
    """The checked arguments of a forward pass: one library, one device, one dtype."""

    cell: Cell
    xp: Any
    dtype: Any
    x: Array  # (n_x, m, T), any strides; or (m, T) indices, zero past an example's end, in memory of the call's own
    indices: bool  # whether x holds the indices of one-hot columns
    n_x: int
    s0: Arrays  # per state, (n, m)
    parameters: dict[str, Array]  # at least the keys of the recurrent part
    lengths: Array | None  # (m,) integers

    @property
    def n_a(self) -> int:
        """Number of hidden units."""
        return int(self.s0[0].shape[0])

    @property
    def m(self) -> int:
        """Number of examples."""
        return int(self.x.shape[-2])

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return int(self.x.shape[-1])


@dataclass
class Tape:
    """What a forward pass keeps, time-major. A pass without ``keep`` keeps the final states alone.

    `own` belongs to the engine: packed weights, the plan of a pass. It is None on a tape that no engine has made, from
    hand-built caches or in another dtype; an engine then uses `parameters`.
    """

    cell: Cell
    xp: Any
    dtype: Any
    x: Array  # (T, m, n_x); or (T, m) indices; zero past an example's end
    indices: bool
    n_x: int
    states: Arrays  # per state, (T + 1, m, n), the initial state first; without `keep` (1, m, n), the final one
    saved: Arrays | None  # per name in cell.saved, (T, m, n), zero past an example's end; None without `keep`
    lengths: Array | None  # (m,) integers
    parameters: Mapping[str, Array]  # those of the recurrent part
    own: Any = None

    @property
    def n_a(self) -> int:
        """Number of hidden units."""
        return int(self.states[0].shape[2])

    @property
    def m(self) -> int:
        """Number of examples."""
        return int(self.states[0].shape[1])

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return int(self.x.shape[0])

    def steps(self, start: int, stop: int) -> "Tape":
        """The tape of some consecutive steps; lengths count from the first of them."""
        if start == 0 and stop == self.n_steps:
            return self
        assert self.saved is not None
        lengths = self.lengths
        if lengths is not None and start:
            lengths = self.xp.where(lengths > start, lengths - start, self.xp.zeros_like(lengths))
        return replace(
            self,
            x=self.x[start:stop, ...],
            states=tuple(s[start : stop + 1, ...] for s in self.states),
            saved=tuple(s[start:stop, ...] for s in self.saved),
            lengths=lengths,
        )

    def astype(self, dtype: Any) -> "Tape":
        """The same tape in another dtype."""
        if dtype == self.dtype or self.saved is None:
            return self

        def cast(a: Array) -> Array:
            return ns.astype(self.xp, a, dtype)

        return replace(
            self,
            dtype=dtype,
            x=self.x if self.indices else cast(self.x),
            states=tuple(map(cast, self.states)),
            saved=tuple(map(cast, self.saved)),
            parameters={key: cast(value) for key, value in self.parameters.items()},
            own=None,
        )


class Cotangents(NamedTuple):
    """What the caller gives to a backward pass; None stands for zeros."""

    states: tuple[Array | None, ...]  # per state, (n, m, T): of the states of all steps
    final: tuple[Array | None, ...]  # per state, (n, m): of the final states


class Gradients(NamedTuple):
    """What a backward pass returns."""

    x: Array | None  # (n_x, m, T); None for inputs that are indices
    s0: Arrays  # per state, (n, m)
    parameters: dict[str, Array]  # "d" + key, for every parameter of the recurrent part


class Stepper(Protocol):
    """A cell fed one time step at a time, with its weights packed once."""

    def step(self, xt: Array) -> Arrays:
        """Do one step with (n_x, m), unchecked; return the states, (n, m), which the step after next may overwrite."""

    def set(self, states: Arrays) -> None:
        """Continue from these states, (n, m)."""


class Engine(Protocol):
    """Runs passes. See the requirements at the top of this file."""

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        """Run the cell over the sequences.

        Returns the states of all steps, each (n, m, T), zero past an example's end, and the tape. `keep` says
        whether a backward pass may follow.
        """

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        """Go back through all steps of a tape that was kept, made by this engine or by none."""

    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        """Return a @ b + bias for (r, k), (k, c) and (c,): the product of dense layers."""

    def stepper(self, call: Call) -> Stepper:
        """Return a stepper that starts at ``call.s0``; x of the call, of one step, only has the right shape."""
