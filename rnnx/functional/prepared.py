"""Passes that an engine has prepared, for calls like one that was checked in full; see `rnnx._core.kinds`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import INDEX, Array
from rnnx._core.kinds import Table, device_of, is_index_vector, kinds
from rnnx.engines.precision import conversion
from rnnx.engines.protocol import Arrays, Call, Gradients, PreparingEngine, Tape, preparing
from rnnx.engines.registry import version
from rnnx.functional import schedule
from rnnx.functional.caches import Caches
from rnnx.functional.resets import with_resets
from rnnx.functional.signatures import Signature

_MOST = 32  # passes of a signature


class Forward:
    """A forward pass for the calls of an exact signature.

    `name`: of the engine. `call`: one of the calls. `zero`: which initial states are zero and not among the arrays that
    `run` takes.
    """

    def __init__(
        self, name: str, engine: PreparingEngine, found: Signature, call: Call, zero: tuple[bool, ...], keep: bool
    ) -> None:
        schedule.check_keep(call, keep)
        self.name, self._found, self._keep, self._hoisted = name, found, keep, call.cell.hoisted
        self._run = engine.prepared(schedule.with_hoisted(call), keep=keep, zero=zero)
        self._device = device_of(call.x) if getattr(engine, "copies_values", False) else None  # where values are copied
        first, keys = 1 + zero.count(False) + len(call.inputs), list(call.parameters)
        self._sources = [first + keys.index(key) for key in self._hoisted.sources] if self._hoisted else []

    def lengths(self, lengths: Any) -> Array | None:
        """Return the lengths, checked, as an array of integers that `run` takes."""
        own = self._device is not None and is_index_vector(lengths, self._device)
        return lengths if own and lengths.shape[0] == self._found.m else self._found.lengths(lengths)

    def run(self, arrays: Arrays, ends: Array | None) -> tuple[Arrays, Tape]:
        """Run the pass on x, the given initial states, the extra inputs and the parameters."""
        found, hoisted = self._found, self._hoisted
        if found.indices and (self._device is None or arrays[0].dtype != INDEX):
            arrays = (found.checked_indices(arrays[0], ends), *arrays[1:])
        if hoisted is None:
            return self._run(arrays, ends)
        xp, _, dtype = found.kind
        sources = [arrays[k] for k in self._sources]
        states, tape = self._run((*arrays, *schedule.hoisted_vectors(hoisted, xp, dtype, sources)), ends)
        if self._keep:
            tape.sources = {key: ns.owned_copy(xp, a) for key, a in zip(hoisted.sources, sources, strict=True)}
        return states, tape


def run(
    found: Signature,
    arrays: Arrays,
    x: Array,
    s0: Sequence[Array | None],
    parameters: Mapping[str, Array],
    inputs: Mapping[str, Array] | None,
    lengths: Any,
    resets: Any,
    keep: bool,
    only_first: bool = False,
) -> tuple[Arrays, Caches, Array | None, Mapping[str, Array]]:
    """Run a forward pass with this signature; return states, caches, lengths, and the parameters that it has read.

    It is prepared if the signature is exact and the engine in effect prepares passes, and must not convert `arrays`:
    all that were given, in order, or none if such a call cannot be found again.
    """
    ready: Forward | None = None
    if resets is None and found.is_exact and arrays:
        ready = _ready(found, (keep, only_first, lengths is None, engines.state()), x, s0, parameters, inputs, lengths)
    if ready is not None:
        ends = ready.lengths(lengths)
        states, tape = ready.run(arrays, ends)
        caches = Caches(ready.name, tape, x, parameters, found.cell)
    else:
        ends = found.lengths(lengths)
        call = found.call(x, s0, parameters, inputs, ends)
        call = call._replace(only_first=True) if only_first else call
        call = call if resets is None else with_resets(call, resets)
        states, caches = schedule.forward(call, x, parameters, keep=keep, cell=found.cell)
        parameters = call.parameters
    if inputs:
        caches.inputs = {name: array.ndim for name, array in inputs.items()}
    return states, caches, ends, parameters


def _ready(found: Signature, key: tuple[bool, bool, bool, Any], *arguments: Any) -> Forward | None:
    """Return the pass for calls like this one, prepared unless it has been; None as for `_prepare`."""
    ready: Forward | None = found.passes.get(key)
    return _prepare(found, key, *arguments) if ready is None else ready


def _prepare(
    found: Signature,
    key: tuple[bool, bool, bool, Any],
    x: Array,
    s0: Sequence[Array | None],
    parameters: Mapping[str, Array],
    inputs: Mapping[str, Array] | None,
    lengths: Any,
) -> Forward | None:
    """Return a new pass for calls like this one; None if the engine prepares none, or must convert arrays."""
    name = engines.select(found.kind[0], n_steps=found.n_steps, m=found.m)
    engine, (xp, _, dtype) = preparing(engines.load(name)), found.kind
    if engine is None or conversion(xp, dtype, engine) is not None:
        return None
    keep, only_first, *_ = key
    zero = tuple([s is None for _, s in zip_longest(found.cell.states, s0)])
    if len(found.passes) >= _MOST:
        found.passes.clear()
    call = found.call(x, s0, parameters, inputs, found.lengths(lengths))._replace(only_first=only_first)
    ready = Forward(name, engine, found, call, zero, keep)
    found.passes[key] = ready
    return ready


_backward: Table[Callable[..., Gradients]] = Table()


class Backward(NamedTuple):
    """A call of a backward function, not checked yet; `key` is None if there can be no prepared pass."""

    key: Any
    tape: Any = None
    given: Arrays = ()  # the cotangents of the states of all steps and of the final states

    @classmethod
    def of(cls, cell: Any, ds: Any, caches: Any, ds_final: Any) -> "Backward":
        """Return the call with these arguments of `recurrent_backward`."""
        tape = caches._tape if type(caches) is Caches else None
        if tape is None or tape.conversion is not None or (kind := tape.kind) is None:
            return cls(None)
        if not (cell is caches.cell is tape.cell or cell == caches.cell == tape.cell):  # it may have more options
            return cls(None)
        try:
            every = *ds, *ds_final
            given = tuple([d for d in every if d is not None])
            absent = tuple([d is None for d in every]), len(ds)
        except TypeError:  # the checks say what is wrong
            return cls(None)
        if (of_arrays := kinds(given)) is None:
            return cls(None)
        key = kind, caches.engine, version(), type(ds), type(ds_final), absent, of_arrays
        return cls(key, tape, given)

    def run(self) -> Gradients | None:
        """Run the pass that was prepared for calls like this one; None if there is none."""
        run = _backward.find(self.key)
        return None if run is None else run(self.tape, self.given)

    def prepare(self, engine: str, cotangents: Arrays) -> None:
        """Prepare the pass for calls like this one, whose arguments are right, with None for cotangents not given.

        Not if it must convert them, or if they are of the first steps.
        """
        tape = self.tape
        if self.key is None or any(d.dtype != tape.dtype for d in self.given):
            return
        if any(d.ndim == 3 and d.shape[2] != tape.n_steps for d in self.given):
            return
        prepares = preparing(engines.load(engine))
        if prepares is not None:
            run = prepares.prepared_backward(tape, cotangents)
            _backward.add(self.key, run if tape.cell.hoisted is None else partial(_and_of_sources, run))


def backward(caches: Caches, ds: Sequence[Array | None], ds_final: Sequence[Array | None]) -> Gradients:
    """Return the gradients for checked cotangents, one or None per state, of the steps and the final states."""
    call = Backward.of(caches.cell, ds, caches, ds_final)
    gradients = call.run()
    if gradients is not None:
        return gradients
    tape, engine, _ = schedule.resolve(caches.cell, caches)
    call.prepare(engine, (*ds, *ds_final))
    of_steps, of_final = (dict(zip(caches.cell.states, given, strict=True)) for given in (ds, ds_final))
    return schedule.gradients(tape, engine, of_steps, of_final)


def _and_of_sources(run: Callable[..., Gradients], tape: Tape, given: Arrays) -> Gradients:
    """Run a pass of a cell that computes vectors from parameters alone."""
    return schedule.of_sources(tape, run(tape, given))
