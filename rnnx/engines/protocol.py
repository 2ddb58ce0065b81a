"""The interface of an engine, an object that runs whole passes over time.

Requirements
------------
* Arguments are never written to. The caller may write to results, and with ``keep=True`` to `x` and the parameters,
  without changing a later backward pass.
* Sequences have public layout, (n, m, T). Preferably, results are F-ordered views of time-major memory (T, m, n), which
  stacked layers pass on without copies.
* From step ``lengths[j]`` on, the state of example j is constant, its outputs, saved values and cotangents are zero,
  and its inputs and given cotangents, even NaN, affect no result.
* NaN and infinity propagate as in the equations: an array element is affected only by what it depends on. So an example
  past its end is not affected by infinite weights, and its gradients there are zero. There is one exception: a state
  that is not finite may make the gradients of the recurrent weights NaN for as long as it stays constant. For index
  inputs, the gradient of a column of weights depends only on the steps with its index (on the reference engine, only
  for NumPy arrays). Engines add in different orders, so where a product or sum overflows, the result may be infinity on
  one and NaN on another.
* Results are bit-identical for any number of threads, and calls are thread-safe.
* Engines are independent of the cell: they use `rnnx.cells.wiring` and the cell's own functions.

Dimensions: T steps, m examples, n hidden units, n_x inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, cast

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.copying import Portable
from rnnx.cells import Cell

Arrays = tuple[Array, ...]


class Call(NamedTuple):
    """The checked arguments of a forward pass: one library, one device, one dtype."""

    cell: Cell
    xp: Any
    dtype: Any
    x: Array  # (n_x, m, T), any strides; or a private copy of (m, T) indices, zero past each length
    indices: bool  # whether x holds the indices of one-hot columns
    n_x: int
    s0: Arrays  # per state, (n, m)
    parameters: dict[str, Array]  # with or without the output layer
    lengths: Array | None  # (m,) integers
    inputs: Arrays = ()  # per name in cell.inputs, (n, m, T), any strides
    weights: str = ""  # the format in which an engine may keep the gates' weights, which are for inference only
    only_first: bool = False  # whether the results need not have the sequences of states other than the first

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
class Tape(Portable):
    """What a forward pass keeps, time-major: without ``keep``, only the final states.

    `own` is private to the engine, such as packed weights. It is None on a tape built from hand-built caches or
    converted to another dtype; the engine then uses `parameters`.
    """

    cell: Cell
    xp: Any
    dtype: Any
    x: Array  # (T, m, n_x), or (T, m) indices; zero past each length; without `keep`, it may be the caller's x
    indices: bool
    n_x: int
    states: Arrays  # per state, (T + 1, m, n), the initial state first; without `keep`, the final one, (1, m, n)
    saved: Sequence[Array] | None  # per name in cell.saved, (T, m, n), zero past each length; None without `keep`
    lengths: Array | None  # (m,) integers
    parameters: Mapping[str, Array]  # without the output layer
    own: Any = None
    inputs: Arrays = ()  # per name in cell.inputs, (T, m, n); zero past each length; empty without `keep`
    sources: Mapping[str, Array] = field(default_factory=dict)  # what ``cell.hoisted`` computes vectors from
    conversion: Any = None  # if the precision is not the caller's, see `rnnx.engines.precision`

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "own": None}  # it may hold addresses
        return {**state, "parameters": dict(self.parameters)}  # or an engine's own mapping

    @property
    def kind(self) -> Any:
        """What tapes with arrays of the same kinds share, as a value that can be hashed; None if it is not known."""
        return None

    @property
    def has_saved(self) -> bool:
        """Whether a backward pass may follow."""
        return self.saved is not None

    @property
    def final(self) -> Arrays:
        """The final states, each (m, n)."""
        return tuple([s[-1, :, :] for s in self.states])

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
        """Return the tape of steps `start` to `stop` - 1, with `lengths` relative to `start`."""
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
            inputs=tuple(e[start:stop, ...] for e in self.inputs),
            lengths=lengths,
        )

    def astype(self, dtype: Any) -> "Tape":
        """Return the tape in another dtype."""
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
            inputs=tuple(map(cast, self.inputs)),
            parameters={key: cast(value) for key, value in self.parameters.items()},
            own=None,
        )


class Cotangents(NamedTuple):
    """The caller's cotangents; None means zeros."""

    states: tuple[Array | None, ...]  # per state, (n, m, T), for all steps
    final: tuple[Array | None, ...]  # per state, (n, m), for the final state


class Gradients(NamedTuple):
    """The result of a backward pass."""

    x: Array | None  # (n_x, m, T); None for index inputs
    s0: Arrays  # per state, (n, m)
    parameters: dict[str, Array]  # "d" + key, without the output layer
    inputs: Arrays = ()  # per name in cell.inputs, (n, m, T)


class Stepper(Protocol):
    """A cell run one time step at a time, with its weights packed once."""

    def step(self, xt: Array, inputs: Arrays = ()) -> Arrays:
        """Run a step on (n_x, m) and, per name in cell.inputs, (n, m), unchecked; return the states (n, m).

        They are valid until the step after next.
        """

    def set(self, states: Arrays) -> None:
        """Continue from these states, (n, m)."""


class PreparedStep(Protocol):
    """A single step, and its backward step, for arrays of the same kinds, which are not checked or copied."""

    names: tuple[str, ...]  # of the gradients of the parameters, "d" + key

    def forward(self, arrays: Arrays) -> tuple[Arrays, Array | None, Arrays, Any]:
        """Run a step on xt, the states before it and all parameters.

        Return the states after it, (n, m); the outputs, (n_y, m), if there is an output layer and the engine runs it;
        what the cache tuple holds, namely those states, those before it and the values in ``cell.cache``, all of which
        belong to the tuple; and what `backward` needs.
        """

    def backward(self, kept: Any, arrays: Arrays, cotangents: Sequence[Array | None]) -> Sequence[Array]:
        """Return the gradients of xt, the states before the step and the parameters, in the order of `names`.

        `arrays` are xt and all parameters, of the kinds of those of the step. `cotangents` are those of the states
        after it, (n, m), of the step's dtype; None means zeros.
        """


class StepCapture(Protocol):
    """Captures the work of a training step on a device, so that one launch repeats it on the same arrays."""

    def write(self, array: Array, values: Any) -> None:
        """Copy a NumPy array to an array of the device, in the order of other work, without waiting for it."""

    def capture(self, like: Array, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work, on the device of an array, and capture it; return what replays it, which owns all its memory.

        Raises RuntimeError or NotImplementedError if the work cannot be captured; it may have been done, or not.
        """


class Engine(Protocol):
    """An engine; see the requirements above.

    An engine that also takes arrays of 16-bit dtypes, and computes in float32, has an attribute `halves`, True. One on
    whose device training steps can be captured has an attribute `steps`, a `StepCapture`. One that makes the masks of
    `rnnx.models.Masks`, with the same bits, has a method ``kept(key, start, rate, shape, like, value)``, where `key` is
    an array of two int64 on the device of `like`; one that also applies them has a method
    ``dropped(key, start, rate, x, value)``, which returns x with dropout, and a function that does the same to its
    cotangent, or None for arrays of other dtypes; both may overwrite their arrays. One that runs single steps without a
    tape has a method ``one_step(call)``, which returns the states after the step and the values in ``cell.saved``, (n,
    m); one that prepares them has a method ``prepared_step(call)``, which returns a `PreparedStep`. One that computes
    all gradients of a dense layer at once has a method ``dense_gradients(dz, a, W)``, for dz (r, n_y), a (r, n_a) and
    W, which returns da, dW and db (n_y, 1), or None where `matmul` is to compute them.
    """

    def forward(self, call: Call, *, keep: bool) -> tuple[Arrays, Tape]:
        """Return the states of all steps, each (n, m, T), and the tape. With `keep`, a backward pass may follow."""

    def backward(self, tape: Tape, cotangents: Cotangents) -> Gradients:
        """Run the backward pass over all steps of a tape from this engine or from hand-built caches."""

    def matmul(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        """Return a @ b + bias for (r, k), (k, c) and (c,), as dense layers need it.

        Engines for arrays on a device also multiply stacks of matrices, (m, r, k) and (m, k, c), as attention needs it.
        """

    def stepper(self, call: Call) -> Stepper:
        """Return a stepper that starts at ``call.s0``; only the shape of ``call.x``, of one step, matters."""


class PreparingEngine(Engine, Protocol):
    """An engine that decides what depends on the kinds of arrays, not on values, once for many calls.

    Arrays of the same kind have the same type, dtype, shape and memory layout. With an attribute `copies_values`, True,
    its functions also take index inputs and lengths that are the caller's own arrays on a device, of int64, and lengths
    contiguous: whatever it needs of them later, it copies.
    """

    def prepared(
        self, call: Call, *, keep: bool, zero: tuple[bool, ...] = ()
    ) -> Callable[[Arrays, Array | None], tuple[Arrays, Tape]]:
        """Return `forward` for calls with arrays of the same kinds as a call, as a function of arrays and lengths.

        The arrays are x, the initial states except those that are `zero`, the extra inputs and all parameters.
        """

    def prepared_backward(
        self, tape: Tape, cotangents: tuple[Array | None, ...]
    ) -> Callable[[Tape, Arrays], Gradients]:
        """Return `backward` for tapes and cotangents of the same kinds, of the states of all steps and the final ones.

        The function takes the tape and the cotangents that are not None.
        """


def preparing(engine: Engine) -> PreparingEngine | None:
    """Return an engine if it is a `PreparingEngine`."""
    return cast(PreparingEngine, engine) if hasattr(type(engine), "prepared") else None
