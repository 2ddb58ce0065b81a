"""Whole training steps captured as graphs on a device, where one launch replays them.

A graph contains addresses, so what a step reads and changes is in memory that stays: the parameters, the state of the
optimizer, the states between batches, the loss scale. What differs from step to step is copied there before: the batch,
and the numbers of the update. A captured step was compared with the step itself, bit for bit, before its first use.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data.batches import Batch, LateBatch
from rnnx.engines.protocol import StepCapture
from rnnx.models import Masks, SequenceModel
from rnnx.optim import Joined, learning_rate_at
from rnnx.training.precision import outcome, passes_in
from rnnx.training.progress import PendingSteps
from rnnx.training.step_memory import LateMasks, Memory, NeedsHost, write

MOST = 16  # captured steps of a run
MOST_MASKS = 64  # of a step
_EXTRA = "extra."  # before the names of the inputs besides x
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

    def __init__(self, run: Any, memory: Memory, batch: Batch, capture: StepCapture) -> None:
        self.run, self._memory, self._capture, self._carried = run, memory, capture, batch.continues
        xp, first = run.model.xp, memory.moments[0]
        keywords = {"dtype": first.dtype, "device": ns.device(first)}
        self._gather = batch.gather if isinstance(batch, LateBatch) else None
        self._slots = {
            name: xp.zeros(a.shape, dtype=xp.int64 if isinstance(a, np.ndarray) else a.dtype, device=ns.device(first))
            for name, a in _arrays(batch).items()
        }
        sizes = {name: n for one in run.model.stack.directions for name, n in one.state_sizes.items()}
        m = next(iter(self._slots.values())).shape[-1 if self._gather else -2]
        self.states = {name: xp.zeros((n, m), **keywords) for name, n in sizes.items()}
        self.results = xp.zeros((3,), **keywords)
        self._masks = LateMasks((0,), slots=xp.zeros((MOST_MASKS, 2), dtype=xp.int64, device=ns.device(first)))
        self._names = [*run.optimizer.numbers(1.0, 1)]
        self._numbers = xp.zeros((len(self._names) + 1,), dtype=xp.float64, device=ns.device(first))

    def load(self, batch: Batch, number: int) -> None:
        """Copy what differs from step to step: the batch, carried states, keys of masks, and numbers of the update."""
        run = self.run
        for target, value in zip(self._slots.values(), _arrays(batch).values(), strict=True):
            if isinstance(value, np.ndarray):
                self._capture.write(target, np.ascontiguousarray(value, np.int64))
            else:
                target[...] = value
        if self._carried and run.states is not self.states:
            write(self.states.values(), [run.states[name] for name in self.states])
        if self._masks.places:
            masks, keys = Masks((run.seed, number)), np.zeros((MOST_MASKS, 2), np.int64)
            for place, slot in self._masks.places.items():
                keys[slot] = masks.key(place).view(np.int64)
            self._capture.write(self._masks.slots, keys)
        values = run.optimizer.numbers(learning_rate_at(run.optimizer.learning_rate, number), number)
        self._capture.write(self._numbers, np.array([*values.values(), number], np.float64))

    def _batch(self) -> Batch:
        """Return the batch, gathered here if its dataset is on the device."""
        arrays = dict(self._slots)
        if self._gather:
            arrays["inputs"], arrays["targets"] = self._gather.build(arrays.pop("rows"))
        first = arrays.pop("inputs"), arrays.pop("targets"), arrays.pop("lengths", None)
        extra = {name.removeprefix(_EXTRA): a for name, a in arrays.items()}
        return Batch(*first, self._carried, extra or None)

    def work(self) -> None:
        """Compute a step, and write its results to the memory that stays."""
        run, memory, xp = self.run, self._memory, self.run.model.xp
        scaled = {} if memory.scale is None else {"loss_scale": memory.scale.scale}
        with passes_in(run.precision):
            step = run.model.train_step(
                self._batch(),
                states=self.states if self._carried else None,
                masks=self._masks,
                segment_length=run.segment_length,
                **scaled,
            )
        gradients, norm = run.clipped(memory.joined.gradients(step.gradients), memory.scale)
        norm, finite, applied, scale = outcome(memory.scale, PendingSteps((), memory.finite), step.loss, norm)
        numbers = {name: self._numbers[k] for k, name in enumerate(self._names)}
        p, *moments = memory.moments
        (changed,) = engines.operations(xp).elementwise(
            run.optimizer.rule, numbers, [(p, *gradients.values(), *moments)]
        )
        write((p, *moments), [xp.where(applied, new, old) for new, old in zip(changed, (p, *moments), strict=True)])
        write(self.states.values(), [xp.where(finite, step.states[name], s) for name, s in self.states.items()])
        if memory.scale is not None and scale is not None:
            write(memory.scale, scale)
        memory.finite[...] = finite
        number = ns.astype(xp, self._numbers[len(self._names)], norm.dtype)
        self.results[...] = xp.stack([ns.astype(xp, step.loss, norm.dtype), norm, number])

    def capture(self) -> bool:
        """Capture the step; return False, and change nothing, if that fails or its replay has other results."""
        slots = [*self._memory.moments, *(self._memory.scale or ()), self._memory.finite]
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
            joined = Joined.of(run.optimizer, run.model.parameters, run.optimizer_state)
            if joined is None:
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
    known = isinstance(run.model, SequenceModel) and type(run.model).__module__.startswith("rnnx.")
    there = type(batch) is LateBatch or (type(batch) is Batch and not ns.is_on_host(batch.inputs))
    plain = run.parts is None and run.ema is None and not run.frozen
    if not known or not there or not plain or not run.in_place or batch.weights is not None:
        return None
    arrays = _arrays(batch)
    if run.segment_length is not None and "lengths" in arrays:  # the segments' weights need their sum
        return None
    kinds = tuple((name, tuple(a.shape), str(a.dtype)) for name, a in arrays.items())
    gather = batch.gather.kind if type(batch) is LateBatch else None
    settings = run.clip_norm, run.clip_value, run.precision
    return kinds, batch.continues, gather, settings, engines.settings(run.model.xp)


def _arrays(batch: Batch) -> dict[str, Array]:
    """Return the arrays of a batch by name, without lengths that are all T; instead of a late one's, the rows."""
    if isinstance(batch, LateBatch):
        arrays, n_steps = {"rows": batch.gather.rows}, batch.gather.n_steps
    else:
        extra = {_EXTRA + name: a for name, a in (batch.extra or {}).items()}
        arrays, n_steps = {"inputs": batch.inputs, "targets": batch.targets, **extra}, batch.inputs.shape[-1]
    lengths = batch.lengths
    if isinstance(lengths, np.ndarray) and (lengths == n_steps).all():
        lengths = None
    return arrays if lengths is None else {**arrays, "lengths": lengths}


def _warn(why: str) -> None:
    warnings.warn(f"training steps run without a graph of the whole step: {why}", RuntimeWarning, stacklevel=2)
