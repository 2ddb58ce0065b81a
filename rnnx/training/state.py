"""The state of a training run, and one optimizer step.

On a device the host runs ahead: it fetches the losses when one is read, before an evaluation, and after a fixed number
of steps; see `rnnx.training.progress`.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods, choice, flag, integer, real
from rnnx.functional.quantization import check_trainable
from rnnx.models import Masks, Step
from rnnx.optim import Joined, clip_by_value, learning_rate_at
from rnnx.optim.base import with_prefix
from rnnx.optim.clipping import scale_to_norm
from rnnx.training.captured import CapturedStep, CapturedSteps, Launch
from rnnx.training.counters import Counters
from rnnx.training.distributed.group import ALONE, Group
from rnnx.training.finite import check_finite, check_model
from rnnx.training.parts import Parts, checked_parts, train_in_parts
from rnnx.training.precision import LossScale, loss_scale_for, outcome, passes_in, restored, saved
from rnnx.training.progress import Numbers, PendingSteps, Progress
from rnnx.training.step_memory import Memory
from rnnx.training.variants import average_numbers, averaged, frozen_names

Arrays = dict[str, Array]
REDUCTIONS = ("ordered", "fast")
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
    precision: str | None = None
    micro_batch_size: int | None = None
    frozen: Sequence[str] = ()
    ema: float | None = None
    shards: int | None = None
    group: Group = ALONE
    reduce: str = "ordered"
    average: Arrays = field(default_factory=dict, init=False)  # of the parameters that are trained, with `ema`
    counters: Counters = field(default_factory=Counters)
    optimizer_state: Arrays = field(default_factory=dict)
    states: Arrays = field(default_factory=dict)  # carried from batch to batch
    loss_scale: LossScale | None = field(default=None, init=False)  # with `precision` = "float16"
    _next: dict[str, Any] = field(default_factory=dict, init=False, repr=False)  # see `_replace`
    _pending: PendingSteps = field(default_factory=PendingSteps, init=False, repr=False)
    _error: FloatingPointError | None = field(default=None, init=False, repr=False)  # of the current run
    _owned: Arrays | None = field(default=None, init=False, repr=False)  # parameters without other references
    _spare: tuple[Arrays, Arrays] | None = field(default=None, init=False, repr=False)  # memory for the next update
    _joined: Joined | None = field(default=None, init=False, repr=False)  # on a device
    _captured: CapturedSteps = field(default_factory=CapturedSteps, init=False, repr=False)

    def __post_init__(self) -> None:
        check_model("model", self.model)
        check_trainable(self.model.parameters)
        check_methods("optimizer", self.optimizer, "an optimizer of rnnx.optim, or have its methods", "init", "update")
        self.loss_scale = loss_scale_for(self.precision, self.model)
        self._frozen = frozen_names(self.frozen, self.model.parameters)
        choice("reduce", self.reduce, REDUCTIONS)
        self.micro_batch_size, self.shards = checked_parts(self.micro_batch_size, self.shards, self.group)
        if self.ema is not None:
            self.ema = real("ema", self.ema, "(0, 1)")
        self.optimizer_state = self.optimizer_state or self.optimizer.init(self.trained())
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                setattr(self, name, real(name, getattr(self, name), "(0, inf)"))
        self.seed = integer("seed", self.seed, 0)
        self.shuffle = flag("shuffle", self.shuffle)
        self.in_place = flag("in_place", self.in_place) and "out" in inspect.signature(self.optimizer.update).parameters

    @property
    def parts(self) -> Parts | None:
        """How batches are cut; None if they are not."""
        if self.micro_batch_size is None and self.shards is None:
            return None
        return Parts(self.micro_batch_size, self.shards, self.group)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, which shares no arrays that later steps overwrite."""
        self.settle()
        return {**vars(self), "_owned": None, "_spare": None, "_joined": None, "_captured": CapturedSteps()}

    @property
    def step(self) -> int:
        """Optimizer steps done; on a device, steps launched, until `settle`."""
        return self.counters.step

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; 0 before the first one."""
        return self.counters.epoch

    def _replace(self, **values: Any) -> None:
        """Set attributes (`parameters` is the model's): all of them, or none if an interrupt comes before.

        An interrupt (the stop button of a notebook) may come between any two operations. From the first line on, the
        values are set here or by the next `_finish`.
        """
        self._next = values
        try:
            self._finish()
        except BaseException:
            self._finish()
            raise

    def _finish(self) -> None:
        """Finish an interrupted `_replace`."""
        for name, value in self._next.items():
            if name == "_launch":
                value()
            else:
                setattr(self.model if name == "parameters" else self, name, value)
        self._next = {}

    def trained(self) -> Arrays:
        """Return the parameters that are not frozen."""
        parameters: Arrays = self.model.parameters
        return {k: p for k, p in parameters.items() if k not in self._frozen} if self._frozen else parameters

    @property
    def averaged(self) -> Any:
        """The model with the averaged parameters, or the model itself without `ema`."""
        if not self.average:
            return self.model
        self.settle()
        model = copy.copy(self.model)
        model.parameters = {**self.model.parameters, **copies(self.average)}  # later steps may overwrite the average
        return model

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
        """Update on the host, if loss and gradients are finite.

        An update in place alternates between two sets of arrays, so that the old state is there until the new one is
        complete.
        """
        number, parameters, state = self.step + 1, self.model.parameters, self.optimizer_state
        check_finite("the loss is", step.loss, number, batch, parameters)
        gradients, norm = self.clipped(step.gradients, self.loss_scale)
        applied, scale = True, self.loss_scale
        if scale is not None:
            norm, _, applied, scale = outcome(scale, self._pending, step.loss, norm)
        check_finite("the gradients are", float(norm), number, batch, parameters)
        count = self.model.count(batch)
        counters = self.counters.with_numbers(step.loss, float(norm), count).after_step(count)
        new = {"states": step.states, "counters": counters, "loss_scale": scale}
        trained = self.trained()
        if not applied:
            arrays = trained, state
        elif self.in_place:
            owned = self._owned is parameters  # never write to arrays that others hold
            out = self._spare if owned and self._spare else (_like(trained), _like(state))
            arrays = self.optimizer.update(trained, gradients, state, number, out=out)
            new |= {"_spare": (trained, state) if owned else None}
        else:
            arrays = self.optimizer.update(trained, gradients, state, number)
        after, average = {**parameters, **arrays[0]} if self._frozen else arrays[0], self._averages(arrays[0], number)
        if self.in_place and applied:
            new["_owned"] = after
        self._replace(parameters=after, optimizer_state=arrays[1], **new, **average)
        return self._progress(step.loss)

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

    def settle(self) -> None:
        """Fetch all numbers still on a device. If a step was not finite, return to the state before it."""
        self._finish()
        if len(self._pending):
            counters, states, error = self._pending.fetch(self.counters)
            states = self.states if states is None else states
            self._replace(counters=counters, states=states, _error=error, _pending=PendingSteps())

    def _check_settled(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error

    def _progress(self, loss: float, **evaluation: Any) -> Progress:
        at = self.counters
        rate = learning_rate_at(self.optimizer.learning_rate, max(at.step, 1))
        return Progress(at.step, at.epoch, rate, Numbers(loss, at.smooth_loss, at.grad_norm), **evaluation)

    def values(self) -> dict[str, Any]:
        """Return the plain values of `state`."""
        self.settle()
        return {**asdict(self.counters), **saved(self.precision, self.loss_scale)[0]}

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything except the model and the settings: plain values, and arrays by name.

        All ranks of a group must call it at the same time.
        """
        values = self.values()
        parts, like = self.parts, next(iter(self.model.parameters.values()))
        states = self.states if parts is None else parts.whole_states(self.states, like)
        arrays = {f"optimizer/{key}": a for key, a in self.optimizer_state.items()}
        arrays |= {f"state/{key}": a for key, a in states.items()}
        arrays |= {f"average/{key}": a for key, a in self.average.items()}
        return values, arrays | saved(self.precision, self.loss_scale)[1]

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Continue from the result of `state`, bit-identical to an uninterrupted run.

        Raises ValueError if the state does not match the model and the optimizer, or has another precision.
        """
        optimizer, states = (with_prefix(arrays, prefix) for prefix in ("optimizer/", "state/"))
        expected = self.optimizer.init(self.trained())
        if {k: tuple(a.shape) for k, a in optimizer.items()} != {k: tuple(a.shape) for k, a in expected.items()}:
            raise ValueError("the optimizer state in `arrays` does not match the model and the optimizer")
        if any(a.dtype != expected[k].dtype for k, a in optimizer.items()):
            raise ValueError("the optimizer state in `arrays` must have the dtypes of the parameters")
        values, scale = restored(self.precision, self.loss_scale, values, arrays)
        counters, optimizer = Counters.of(values), copies(optimizer)
        self.settle()
        average = with_prefix(arrays, "average/") if self.ema is not None else {}
        average = copies({name: a for name, a in average.items() if name not in self._frozen})
        if (parts := self.parts) is not None:
            states = parts.own_states(states)
        new = {"optimizer_state": optimizer, "states": states, "loss_scale": scale, "average": average}
        self._replace(counters=counters, _error=None, **new)


def _like(arrays: Mapping[str, Array]) -> Arrays:
    return {name: np.empty_like(a, subok=False) for name, a in arrays.items()}


def copies(arrays: Mapping[str, Array]) -> Arrays:
    """Copy arrays."""
    if not arrays:
        return {}
    xp, _ = ns.common_namespace(arrays)
    return {name: ns.owned_copy(xp, a) for name, a in arrays.items()}
