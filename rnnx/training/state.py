"""The state of a training run, and one optimizer step.

On a device the host runs ahead: it fetches the losses when one is read, before an evaluation, and after a fixed number
of steps; see `rnnx.training.progress`.
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer, real
from rnnx.models import Masks, Step
from rnnx.optim import Joined, clip_by_value, learning_rate_at
from rnnx.optim.base import with_prefix
from rnnx.optim.clipping import scale_to_norm
from rnnx.training.counters import Counters
from rnnx.training.progress import Numbers, PendingSteps, Progress, check_finite

Arrays = dict[str, Array]
_NO_CLIPPING = 3e38  # no float32 gradient has a larger norm


@dataclass
class TrainingState:
    """The state of a run; see `rnnx.training.Trainer` for the parameters."""

    model: Any
    optimizer: Any
    clip_norm: float | None = 5.0
    clip_value: float | None = None
    seed: int = 0
    shuffle: bool = True
    segment_length: int | None = None
    in_place: bool = True
    counters: Counters = field(default_factory=Counters)
    optimizer_state: Arrays = field(default_factory=dict)
    states: Arrays = field(default_factory=dict)  # carried from batch to batch
    whole: bool = True  # False: an update was interrupted, and the state is not that of any step
    _pending: PendingSteps = field(default_factory=PendingSteps, init=False, repr=False)
    _error: FloatingPointError | None = field(default=None, init=False, repr=False)  # of the current run
    _owned: Arrays | None = field(default=None, init=False, repr=False)  # parameters without other references
    _joined: Joined | None = field(default=None, init=False, repr=False)  # on a device

    def __post_init__(self) -> None:
        self.optimizer_state = self.optimizer_state or self.optimizer.init(self.model.parameters)
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                setattr(self, name, real(name, getattr(self, name), "(0, inf)"))
        self.seed = integer("seed", self.seed, 0)
        self.in_place = self.in_place and "in_place" in inspect.signature(self.optimizer.update).parameters

    @property
    def step(self) -> int:
        """Optimizer steps done; on a device, steps launched, until `settle`."""
        return self.counters.step

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; 0 before the first one."""
        return self.counters.epoch

    def _learn(self, batch: Any) -> Progress:
        """Apply one optimizer step completely, or not at all."""
        if len(self._pending) >= self._pending.max_steps:
            self._check_settled()
        carried = getattr(batch, "continues", False)
        step = self.model.train_step(
            batch,
            states=self.states if carried else None,
            masks=Masks((self.seed, self.step + 1)),
            segment_length=self.segment_length,
        )
        on_host = all(map(ns.is_on_host, self.model.parameters.values()))
        count = self.model.count(batch)
        return self._update(step, count) if on_host else self._launch_update(step, count, carried)

    def _update(self, step: Step, count: int) -> Progress:
        """Update on the host, if loss and gradients are finite."""
        number, parameters, state = self.step + 1, self.model.parameters, self.optimizer_state
        check_finite("the loss is", step.loss, number)
        gradients, norm = self._clip(step.gradients)
        check_finite("the gradients are", float(norm), number)
        new = self.counters.with_numbers(step.loss, float(norm), count).after_step(count)
        self.whole = False  # until the update is complete; an interrupt may come anywhere
        if self.in_place:
            if self._owned is not parameters:  # never write to arrays that others hold
                parameters, state = _copies(parameters), _copies(state)
            arrays = self.optimizer.update(parameters, gradients, state, number, in_place=True)
            self._owned = arrays[0]
        else:
            arrays = self.optimizer.update(parameters, gradients, state, number)
        self._take(arrays, step.states, new)
        return self._progress(step.loss)

    def _launch_update(self, step: Step, count: int, carried: bool) -> Progress:
        """Launch the update on a device without waiting; it is skipped there if loss or gradients are not finite.

        Initial states are kept, in case of an error, only if they were carried.
        """
        at, number = self.counters, self.step + 1
        arrays, norm, finite = self._update_on_device(step, number)
        rate = learning_rate_at(self.optimizer.learning_rate, number)
        progress = Progress(number, at.epoch, rate, fetch=self.settle)
        self.whole = False
        self._pending.add(finite, at, self.states if carried else {}, step.loss, norm, count, progress)
        self._take(arrays, step.states, at.after_step(count))
        return progress

    def _update_on_device(self, step: Step, number: int) -> tuple[tuple[Arrays, Arrays], Array, Array]:
        """Return new parameters and state, or the old ones if not finite; the gradient norm; and whether finite."""
        parameters, state = self.model.parameters, self.optimizer_state
        if self._joined is None or not self._joined.matches(parameters, state):
            self._joined = Joined.of(self.optimizer, parameters, state)
        joined = self._joined
        old = joined.arrays if joined else (parameters, state)
        gradients, norm = self._clip(joined.gradients(step.gradients) if joined else step.gradients)
        finite = self._pending.finite(step.loss, norm)
        xp, _ = ns.common_namespace({"norm": norm})
        updated = self.optimizer.update(old[0], gradients, old[1], number)
        new_parameters, new_state = (
            {name: xp.where(finite, a, before[name]) for name, a in after.items()}
            for after, before in zip(updated, old, strict=True)
        )
        new = new_parameters, new_state
        return joined.replace(new) if joined else new, norm, finite

    def _clip(self, gradients: Arrays) -> tuple[Arrays, Array]:
        """Return the clipped gradients, and their norm before clipping as an array of shape ()."""
        with np.errstate(invalid="ignore"):  # non-finite gradients are rejected later
            clipped, norm = scale_to_norm(self.model.xp, gradients, self.clip_norm or _NO_CLIPPING)
        return clipped if self.clip_value is None else clip_by_value(clipped, self.clip_value), norm

    def _take(self, arrays: tuple[Arrays, Arrays], states: Arrays, counters: Counters) -> None:
        (self.model.parameters, self.optimizer_state), self.states = arrays, states
        self.counters, self.whole = counters, True

    def settle(self) -> None:
        """Fetch all numbers still on a device. If a step was not finite, return to the state before it."""
        if len(self._pending):
            self.counters, states, self._error = self._pending.fetch(self.counters)
            self.states = self.states if states is None else states

    def _check_settled(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error

    def _progress(self, loss: float, **evaluation: Any) -> Progress:
        at = self.counters
        rate = learning_rate_at(self.optimizer.learning_rate, max(at.step, 1))
        return Progress(at.step, at.epoch, rate, Numbers(loss, at.smooth_loss, at.grad_norm), **evaluation)

    def _check_whole(self) -> None:
        if not self.whole:
            raise ValueError("the last update was interrupted; resume from a checkpoint")

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything except the model and the settings: plain values, and arrays by name.

        Raises ValueError if an update was interrupted, so that the arrays belong to no step.
        """
        self._check_whole()
        self.settle()
        arrays = {f"optimizer/{key}": a for key, a in self.optimizer_state.items()}
        arrays |= {f"state/{key}": a for key, a in self.states.items()}
        return asdict(self.counters), arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Continue from the result of `state`, bit-identical to an uninterrupted run.

        Raises ValueError if the state does not match the model and the optimizer.
        """
        optimizer, states = (with_prefix(arrays, prefix) for prefix in ("optimizer/", "state/"))
        expected = self.optimizer.init(self.model.parameters)
        if {k: tuple(a.shape) for k, a in optimizer.items()} != {k: tuple(a.shape) for k, a in expected.items()}:
            raise ValueError("the optimizer state in `arrays` does not match the model and the optimizer")
        if set(values) != set(asdict(self.counters)):
            raise ValueError(f"`values` must have the keys {sorted(asdict(self.counters))}; got {sorted(values)}")
        self.settle()
        self.counters, self._error = Counters(**values), None
        self.optimizer_state, self.states, self.whole = _copies(optimizer), states, True


def _copies(arrays: Mapping[str, Array]) -> Arrays:
    if not arrays:
        return {}
    xp, _ = ns.common_namespace(arrays)
    return {name: ns.owned_copy(xp, a) for name, a in arrays.items()}
