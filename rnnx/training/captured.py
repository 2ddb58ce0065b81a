"""Whole training steps captured as graphs on a device, where one launch replays them.

A graph contains addresses, so what a step reads and changes is in memory that stays: the parameters, the state of the
optimizer, the states between batches, the loss scale. What differs from step to step is copied there before: the batch,
and the numbers of the update. A captured step was compared with the step itself, bit for bit, before its first use.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data import PairBatch
from rnnx.data.batches import Batch, LateBatch
from rnnx.engines.protocol import StepCapture
from rnnx.models import Masks, Seq2Seq
from rnnx.models.stack_model import StackModel
from rnnx.optim import Joined, learning_rate_at
from rnnx.training.precision import outcome
from rnnx.training.progress import PendingSteps
from rnnx.training.step_memory import LateMasks, Memory, NeedsHost, write
from rnnx.training.variants import average_numbers, averaged

MOST = 16  # captured steps of a run
MOST_MASKS = 64  # of a step
_OF_BATCH = "inputs", "targets", "extra", "weights"
_OF_PAIRS = "source", "source_lengths", "target_in", "target_out", "target_lengths"
_ERRORS = (RuntimeError, NotImplementedError)  # of a library, if a step needs the host


class Launch:
    """The replay of a step into its results: once, also if an interrupt comes in between and it is called again."""

    def __init__(self, captured: "CapturedStep", number: int) -> None:
        self._captured, self._number, self._begun = captured, number, False
        self._results = captured.run.model.xp.empty_like(captured.results)
        self.loss, self.norm = (captured.run.model.xp.reshape(self._results[k : k + 1], ()) for k in range(2))  # views

    def __call__(self) -> None:
        """Launch the step."""
        captured = self._captured
        if not self._begun or ns.to_host(captured.results)[2] != self._number:
            self._begun = True
            captured.replay()
        self._results[...] = captured.results


class CapturedStep:
    """A training step for batches of one shape, in one launch.

    Attributes
    ----------
    states : dict of str to array
        After the step. A step that is not finite leaves what was there.
    results : array, shape (3,)
        The loss, the gradient norm, and the number of the step.
    """

    replay: Callable[[], None]

    def __init__(self, run: Any, memory: Memory, batch: Any, capture: StepCapture) -> None:
        self.run, self._memory, self._capture, self._carried = run, memory, capture, batch.continues
        xp, first = run.model.xp, memory.moments[0]
        keywords = {"dtype": first.dtype, "device": ns.device(first)}
        self._gather = batch.gather if isinstance(batch, LateBatch) else None
        self._slots = {
            name: xp.zeros(a.shape, dtype=_dtype(xp, a), device=ns.device(first))
            for name, a in _checked_arrays(run.model, batch).items()
        }
        self._pairs = isinstance(batch, PairBatch)
        self.states: dict[str, Array] = {}
        if isinstance(run.model, StackModel):
            m = next(iter(self._slots.values())).shape[-1 if self._gather else -2]
            sizes = {name: n for one in run.model.stack.directions for name, n in one.state_sizes.items()}
            self.states = {name: xp.zeros((n, m), **keywords) for name, n in sizes.items()}
        self.results = xp.zeros((3,), **keywords)
        self._masks = LateMasks((0,), slots=xp.zeros((MOST_MASKS, 2), dtype=xp.int64, device=ns.device(first)))
        self._names = [*run.optimizer.numbers(1.0, 1)]
        n_numbers = len(self._names) + (1 if run.ema is None else 3)
        self._numbers = xp.zeros((n_numbers,), dtype=xp.float64, device=ns.device(first))

    def load(self, batch: Any, number: int) -> None:
        """Copy what differs from step to step: the batch, carried states, keys of masks, and numbers of the update."""
        run = self.run
        for target, value in zip(self._slots.values(), _checked_arrays(run.model, batch).values(), strict=True):
            if isinstance(value, np.ndarray):
                self._capture.write(target, np.ascontiguousarray(value, _dtype(np, value)))
            else:
                target[...] = value
        if self._carried and run.states is not self.states:
            write(self.states.values(), [run.states[name] for name in self.states])
        if self._masks.places:
            keys = np.zeros((MOST_MASKS, 2), np.int64)
            for (place, (_, *part)), slot in self._masks.places.items():
                keys[slot] = Masks((run.seed, number, *part)).key(place).view(np.int64)
            self._capture.write(self._masks.slots, keys)
        values = run.optimizer.numbers(learning_rate_at(run.optimizer.learning_rate, number), number)
        average = {} if run.ema is None else average_numbers(run.ema, number)
        self._capture.write(self._numbers, np.array([*values.values(), number, *average.values()], np.float64))

    def _batch(self) -> Batch | PairBatch:
        """Return the batch, gathered here if its dataset is on the device."""
        arrays: dict[str, Any] = dict(self._slots)
        if self._pairs:
            given: Any = {name: arrays.get(name) for name in _OF_PAIRS}
            return PairBatch(**given)
        if self._gather:
            arrays["inputs"], arrays["targets"] = self._gather.build(arrays.pop("rows"))
        parts: dict[str, Any] = dict.fromkeys(_OF_BATCH)
        for name in _OF_BATCH:
            by_name = {key.partition(".")[2]: a for key, a in arrays.items() if key.startswith(name + ".")}
            parts[name] = arrays.get(name, by_name or None)
        return Batch(**parts, lengths=arrays.get("lengths"), continues=self._carried)

    def work(self) -> None:
        """Compute a step, and write its results to the memory that stays."""
        run, memory, xp = self.run, self._memory, self.run.model.xp
        step = run.computed(self._batch(), self.states if self._carried else None, self._masks, memory.scale)
        gradients, norm = run.clipped(memory.joined.gradients(step.gradients), memory.scale)
        norm, finite, applied, scale = outcome(memory.scale, PendingSteps((), memory.finite), step.loss, norm)
        numbers = {name: self._numbers[k] for k, name in enumerate(self._names)}
        p, *moments = memory.moments
        (changed,) = engines.operations(xp).elementwise(
            run.optimizer.rule, numbers, [(p, *gradients.values(), *moments)]
        )
        write((p, *moments), [xp.where(applied, new, old) for new, old in zip(changed, (p, *moments), strict=True)])
        if memory.average is not None:
            of_average = dict(zip(("old", "new"), (self._numbers[k] for k in (-2, -1)), strict=True))
            (old,) = memory.average.arrays[0].values()
            (new,) = averaged({"all": old}, {"all": p}, of_average).values()
            old[...] = xp.where(finite, new, old)
        write(self.states.values(), [xp.where(finite, step.states[name], s) for name, s in self.states.items()])
        if memory.scale is not None and scale is not None:
            write(memory.scale, scale)
        memory.finite[...] = finite
        number = ns.astype(xp, self._numbers[len(self._names)], norm.dtype)
        self.results[...] = xp.stack([ns.astype(xp, step.loss, norm.dtype), norm, number])

    def capture(self) -> bool:
        """Capture the step; return False, and change nothing, if that fails or its replay has other results."""
        memory = self._memory
        slots = [*memory.moments, *(memory.scale or ()), memory.finite]
        slots += [] if memory.average is None else [*memory.average.arrays[0].values()]
        slots += [*self.states.values(), self.results]
        xp = self.run.model.xp
        before = [ns.owned_copy(xp, a) for a in slots]
        try:
            self.replay = self._capture.capture(slots[0], self.work)  # it computes the step once
            computed = [ns.owned_copy(xp, a) for a in slots]
            write(slots, before)
            self.replay()
            same = [xp.all((a == b) | ((a != a) & (b != b))) for a, b in zip(slots, computed, strict=True)]
            if bool(ns.to_host(xp.all(xp.stack(same)))):
                return True
            _warn("the replay of a step has other results")
        except NeedsHost:
            pass
        except _ERRORS as error:
            _warn(str(error))
        finally:
            write(slots, before)
        return False


class CapturedSteps:
    """The captured steps of a run, for shapes of batches that occurred before."""

    def __init__(self) -> None:
        self._seen: Counter[Hashable] = Counter()
        self._steps: dict[Hashable, CapturedStep | None] = {}  # None: the step cannot be captured
        self._memory: Memory | None = None
        self._dataset: Any = None

    def take(self, run: Any, batch: Any) -> "tuple[CapturedStep, Memory] | None":
        """Return the captured step for a batch, with the state of the run in its memory; None if there is none."""
        key, capture = _key(run, batch), engines.step_capture(run.model.xp)
        if key is None or capture is None:
            return None
        dataset = getattr(getattr(batch, "gather", None), "dataset", None)
        if dataset is not self._dataset:  # graphs contain its address, and keep it alive
            self._dataset, self._steps = dataset, {}
        self._seen[key] += 1
        if self._seen[key] < 2 or (key not in self._steps and len(self._steps) >= MOST):
            return None
        if self._memory is None or not self._memory.take(run):
            joined = Joined.of(run.optimizer, run.trained(), run.optimizer_state)
            if joined is None or (run.ema is not None and not run.average):
                return None
            self._memory, self._steps = Memory(run, joined), {}
            self._memory.take(run)
        if key not in self._steps:
            step = CapturedStep(run, self._memory, batch, capture)
            step.load(batch, run.step + 1)
            self._steps[key] = step if step.capture() else None
        found = self._steps[key]
        return None if found is None else (found, self._memory)


def _key(run: Any, batch: Any) -> Hashable:
    """Return what a captured step depends on; None if the step cannot be captured."""
    known = isinstance(run.model, StackModel | Seq2Seq) and type(run.model).__module__.startswith("rnnx.")
    there = type(batch) in (LateBatch, PairBatch) or (type(batch) is Batch and not ns.is_on_host(batch.inputs))
    if not known or not there or not run.in_place or run.group.size > 1 or batch.n_terms is not None:
        return None
    arrays = _arrays(batch)
    if not all(hasattr(a, "shape") for a in arrays.values()):  # the lengths may be a list
        return None
    kinds = tuple((name, tuple(a.shape), str(a.dtype)) for name, a in arrays.items())
    gather = batch.gather.kind if type(batch) is LateBatch else None
    settings = run.clip_norm, run.clip_value, run.precision, run.segment_length, run.parts, run.ema is None
    return kinds, batch.continues, gather, settings, engines.settings(run.model.xp)


def _arrays(batch: Any) -> dict[str, Array]:
    """Return the arrays of a batch by name, without lengths that are all T; instead of a late one's, the rows."""
    if isinstance(batch, PairBatch):
        return {name: getattr(batch, name) for name in _OF_PAIRS if getattr(batch, name) is not None}
    if isinstance(batch, LateBatch):
        arrays, n_steps = {"rows": batch.gather.rows}, batch.gather.n_steps
    else:
        arrays, n_steps = {}, batch.inputs.shape[-1]
        for name in _OF_BATCH:
            value = getattr(batch, name)
            by_name = {f"{name}.{key}": a for key, a in value.items()} if isinstance(value, Mapping) else {name: value}
            arrays |= {key: a for key, a in by_name.items() if a is not None}
    lengths = batch.lengths
    if isinstance(lengths, np.ndarray) and (lengths == n_steps).all():
        lengths = None
    return arrays if lengths is None else {**arrays, "lengths": lengths}


def _checked_arrays(model: Any, batch: Any) -> dict[str, Array]:
    """Return the arrays of a batch after checking it: on the device, nobody would notice a wrong length or class."""
    return _arrays(batch if isinstance(batch, LateBatch) else model.checked(batch))


def _dtype(xp: Any, a: Array) -> Any:
    """Return the dtype of an array in the memory of a step; those from the host are wide."""
    if not isinstance(a, np.ndarray):
        return a.dtype
    return xp.float64 if a.dtype.kind == "f" else xp.int64


def _warn(why: str) -> None:
    warnings.warn(f"training steps run without a graph of the whole step: {why}", RuntimeWarning, stacklevel=2)
