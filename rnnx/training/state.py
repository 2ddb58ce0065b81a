"""The state of a training run.

On a device the host runs ahead: it fetches the losses when one is read, before an evaluation, and after a fixed number
of steps; see `rnnx.training.progress`.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods, choice, flag, integer, real
from rnnx.functional.quantization import check_trainable
from rnnx.optim import Joined, learning_rate_at
from rnnx.optim.base import with_prefix
from rnnx.training.captured import CapturedSteps
from rnnx.training.counters import Counters
from rnnx.training.distributed.group import ALONE, Group
from rnnx.training.finite import check_model
from rnnx.training.parts import Parts, checked_parts
from rnnx.training.precision import LossScale, loss_scale_for, restored, saved
from rnnx.training.progress import Numbers, PendingSteps, Progress
from rnnx.training.variants import frozen_names

Arrays = dict[str, Array]
REDUCTIONS = ("ordered", "fast")


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
        return {**vars(self), "_owned": None, "_joined": None, "_captured": CapturedSteps()}

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
        _check_alike("the optimizer state", optimizer, self.optimizer.init(self.trained()))
        values, scale = restored(self.precision, self.loss_scale, values, arrays)
        counters, optimizer = Counters.of(values), copies(optimizer)
        average = with_prefix(arrays, "average/") if self.ema is not None else {}
        average = copies({name: a for name, a in average.items() if name not in self._frozen})
        if average:
            _check_alike("the averages", average, self.trained())
        self.settle()
        if (parts := self.parts) is not None:
            states = parts.own_states(states)
        new = {"optimizer_state": optimizer, "states": states, "loss_scale": scale, "average": average}
        self._replace(counters=counters, _error=None, **new)


def _check_alike(what: str, arrays: Arrays, expected: Arrays) -> None:
    """Raise unless restored arrays have the names, shapes and dtypes of those expected."""
    if {k: tuple(a.shape) for k, a in arrays.items()} != {k: tuple(a.shape) for k, a in expected.items()}:
        raise ValueError(f"{what} in `arrays` must match the model and the optimizer")
    if any(a.dtype != expected[k].dtype for k, a in arrays.items()):
        raise ValueError(f"{what} in `arrays` must have the dtypes of the parameters")


def copies(arrays: Mapping[str, Array]) -> Arrays:
    """Copy arrays."""
    if not arrays:
        return {}
    xp, _ = ns.common_namespace(arrays)
    return {name: ns.owned_copy(xp, a) for name, a in arrays.items()}
