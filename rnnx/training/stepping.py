"""One optimizer step of a run, on the host or on a device, applied completely or not at all."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.models import Masks, Step
from rnnx.optim import Joined, clip_by_value, learning_rate_at
from rnnx.optim.base import once
from rnnx.optim.clipping import scale_to_norm
from rnnx.training.captured import CapturedStep, Launch
from rnnx.training.finite import check_finite
from rnnx.training.parts import train_in_parts
from rnnx.training.precision import LossScale, outcome, passes_in
from rnnx.training.progress import Progress
from rnnx.training.state import Arrays, TrainingState
from rnnx.training.step_memory import Memory
from rnnx.training.variants import average_numbers, averaged

_NO_CLIPPING = 3e38  # no float32 gradient has a larger norm


@dataclass
class Stepping(TrainingState):
    """A run that can do a step; see `rnnx.training.Trainer`."""

    def _learn(self, batch: Any) -> Progress:
        """Apply one optimizer step completely, or not at all."""
        if len(self._pending) >= self._pending.max_steps:
            self._check_settled()
        carried = getattr(batch, "continues", False)
        on_host = ns.is_on_host(next(iter(self.model.parameters.values())))
        captured = None if on_host else self._captured.take(self, batch)
        if captured is not None:
            return self._launch_captured(*captured, batch)
        masks = Masks((self.seed, self.step + 1))
        step = self.computed(batch, self.states if carried else None, masks, self.loss_scale)
        return self._update(step, batch) if on_host else self._launch_update(step, batch)

    def computed(self, batch: Any, states: Arrays | None, masks: Masks, scale: LossScale | None) -> Step:
        """Return the loss and the gradients of a step, which changes nothing yet."""
        scaled = {} if scale is None else {"loss_scale": scale.scale}
        options = {"segment_length": self.segment_length, **scaled, "states": states, "masks": masks}
        with passes_in(self.precision):
            if (parts := self.parts) is None:
                step = self.model.train_step(batch, **options)
            else:
                options |= {"trained": self.trained(), "fast": self.reduce == "fast"}
                step = train_in_parts(self.model, batch, parts, **options)
        if self._frozen:
            step = replace(step, gradients={k: d for k, d in step.gradients.items() if k[1:] not in self._frozen})
        return step

    def _update(self, step: Step, batch: Any) -> Progress:
        """Update on the host, if loss and gradients are finite."""
        number, parameters = self.step + 1, self.model.parameters
        check_finite("the loss is", step.loss, number, batch, parameters)
        gradients, norm = self.clipped(step.gradients, self.loss_scale)
        applied, scale = True, self.loss_scale
        if scale is not None:
            norm, _, applied, scale = outcome(scale, self._pending, step.loss, norm)
        check_finite("the gradients are", float(norm), number, batch, parameters)
        count = self.model.count(batch)
        counters = self.counters.with_numbers(step.loss, float(norm), count).after_step(count)
        new = {"states": step.states, "counters": counters, "loss_scale": scale}
        self._replace(**(self._updated(gradients, number) if applied else {}), **new)
        return self._progress(step.loss)

    def _updated(self, gradients: Arrays, number: int) -> dict[str, Any]:
        """Return what `_replace` sets for an update: new arrays, or what writes to the old ones if no other object has
        them.
        """
        parameters, trained, state = self.model.parameters, self.trained(), self.optimizer_state
        run = once(self.optimizer, trained, gradients, state, number) if self._owned is parameters else None
        if run is not None:
            return {"_launch": run if self.ema is None else partial(self._run_and_average, run, self.average, number)}
        trained, state = self.optimizer.update(trained, gradients, state, number)
        after = {**parameters, **trained} if self._frozen else trained
        new = {"parameters": after, "optimizer_state": state, "_owned": after if self.in_place else None}
        return new | self._averages(trained, number)

    def _run_and_average(self, run: Callable[[], None], average: Arrays, number: int) -> None:
        """Run an update in place, and set the averages that follow on those before."""
        run()
        assert self.ema is not None
        self.average = averaged(average, self.trained(), average_numbers(self.ema, number))

    def _launch_update(self, step: Step, batch: Any) -> Progress:
        """Launch the update on a device without waiting; it is skipped there if loss or gradients are not finite."""
        (trained, state), joined, scale, norm, finite = self._update_on_device(step, self.step + 1)
        parameters = {**self.model.parameters, **trained} if self._frozen else trained
        new = {"parameters": parameters, "optimizer_state": state, "states": step.states, "loss_scale": scale}
        new |= self._averages(trained, self.step + 1, finite)
        return self._launched(batch, finite, step.loss, norm, **new, _joined=joined)

    def _averages(self, trained: Arrays, number: int, finite: Array | None = None) -> dict[str, Arrays]:
        """Return the new averages to set; on a device they stay the same unless the step was finite."""
        if self.ema is None:
            return {}
        average = averaged(self.average, trained, average_numbers(self.ema, number))
        if finite is not None and self.average:
            average = {name: self.model.xp.where(finite, a, self.average[name]) for name, a in average.items()}
        return {"average": average}

    def _launch_captured(self, captured: CapturedStep, memory: Memory, batch: Any) -> Progress:
        """Launch a whole step, with the same results; see `rnnx.training.captured`."""
        captured.load(batch, self.step + 1)
        launch = Launch(captured, self.step + 1)
        new = {"_launch": launch, **memory.attributes, "states": captured.states}
        return self._launched(batch, memory.finite, launch.loss, launch.norm, **new)

    def _launched(self, batch: Any, finite: Array, loss: Array, norm: Array, **new: Any) -> Progress:
        """Count a step whose numbers are on a device.

        Initial states are kept, in case of an error, only if they were carried.
        """
        at, number, count = self.counters, self.step + 1, self.model.count(batch)
        before = self.states if getattr(batch, "continues", False) else {}
        rate = learning_rate_at(self.optimizer.learning_rate, number)
        progress = Progress(number, at.epoch, rate, fetch=self.settle)
        pending = self._pending.add(finite, at, before, loss, norm, count, progress)
        self._replace(**new, counters=at.after_step(count), _pending=pending)
        return progress

    def _update_on_device(
        self, step: Step, number: int
    ) -> tuple[tuple[Arrays, Arrays], Joined | None, LossScale | None, Array, Array]:
        """Return new parameters and state, or the old ones if not applied; these joined; the results of `outcome`."""
        parameters, state = self.trained(), self.optimizer_state
        joined = self._joined
        if joined is None or not joined.matches(parameters, state):
            joined = Joined.of(self.optimizer, parameters, state)
        old = joined.arrays if joined else (parameters, state)
        gradients, norm = self.clipped(joined.gradients(step.gradients) if joined else step.gradients, self.loss_scale)
        norm, finite, applied, scale = outcome(self.loss_scale, self._pending, step.loss, norm)
        xp, _ = ns.common_namespace({"norm": norm})
        updated = self.optimizer.update(old[0], gradients, old[1], number)
        new_parameters, new_state = (
            {name: xp.where(applied, a, before[name]) for name, a in after.items()}
            for after, before in zip(updated, old, strict=True)
        )
        new = new_parameters, new_state
        if joined is None:
            return new, None, scale, norm, finite
        joined = joined.replace(new)
        return joined.views, joined, scale, norm, finite

    def clipped(self, gradients: Arrays, scale: LossScale | None) -> tuple[Arrays, Array]:
        """Return the clipped gradients, and their norm before clipping as an array of shape ()."""
        if scale is not None:
            gradients = scale.unscaled(gradients)
        with np.errstate(invalid="ignore"):  # non-finite gradients are rejected later
            clipped, norm = scale_to_norm(self.model.xp, gradients, self.clip_norm or _NO_CLIPPING, own=False)
        return clipped if self.clip_value is None else clip_by_value(clipped, self.clip_value), norm
