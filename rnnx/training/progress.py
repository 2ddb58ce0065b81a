"""What a training run says of its steps, and how far it is; on a device, both are known later than they are done."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array

_LATE = ("loss", "smooth_loss", "grad_norm")


@dataclass(frozen=True)
class Progress:
    """One optimizer step, or an evaluation.

    On a device other than the CPU, `loss`, `smooth_loss` and `grad_norm` of a step stay there until one of them is
    looked at; the numbers of all steps so far are then fetched together.

    Attributes
    ----------
    step, epoch : int
        Steps done; the epoch under way, from 1.
    loss : float
        Of this step's batch or, in an evaluation, the exact mean over the epoch so far, in the model's unit: for a
        character model, nats per character.
    smooth_loss : float
        The classic scripts' smoothed loss: 0.999 of the old value and 0.001 of the new one; before the first step
        what a model that knows nothing has, log(vocab_size) (other models: the first loss).
    validation_loss : float or None
        Of an evaluation, if there is a validation part.
    learning_rate : float
    grad_norm : float
        Global norm of the gradients of the last step before clipping.
    evaluation : bool

    Raises
    ------
    FloatingPointError
        When a number is looked at that had to be fetched, and the loss or the gradients of that step or of one before
        it were not finite: the step was not done.
    """

    step: int
    epoch: int
    loss: float
    smooth_loss: float | None
    validation_loss: float | None
    learning_rate: float
    grad_norm: float
    evaluation: bool = False

    @classmethod
    def later(cls, fetch: Callable[[], Any], step: int, epoch: int, learning_rate: float) -> "Progress":
        """Of a step whose numbers are not known yet: `fetch` has `tell` called, or raises."""
        self = object.__new__(cls)
        self.__dict__.update(step=step, epoch=epoch, validation_loss=None, learning_rate=learning_rate, _fetch=fetch)
        return self

    def tell(self, **values: Any) -> None:
        """The numbers that were not known."""
        self.__dict__.update(values)
        self.__dict__.pop("_fetch", None)

    @property
    def known(self) -> bool:
        """Whether all numbers are here: looking at them waits for nothing."""
        return "_fetch" not in self.__dict__

    def __getattr__(self, name: str) -> Any:  # of what is not in the instance, that is not known yet
        if name not in _LATE or self.known:
            raise AttributeError(f"'Progress' object has no attribute {name!r}")
        self.__dict__["_fetch"]()  # tells the number, or leaves what raises
        return getattr(self, name)

    def __getstate__(self) -> dict[str, Any]:  # a copy holds numbers, not the way to them
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file of metrics."""
        return asdict(self)


@dataclass
class Counters:
    """How far a run is: everything but arrays. Random numbers are functions of the seed and of these."""

    step: int = 0
    epoch: int = 0  # epochs begun
    batch: int = 0  # batches done in this epoch
    batch_size: int = 0  # of this epoch; 0 before the first one
    total: float = 0.0  # sum of losses of this epoch, and of how many terms
    count: int = 0
    smooth_loss: float | None = None
    grad_norm: float = 0.0
    validation_loss: float | None = None  # the last one
    evaluated: int = 0  # step of the last evaluation
    best_loss: float | None = None
    since_best: int = 0  # evaluations

    def done(self, count: int) -> "Counters":
        """After one more step, of a loss of so many terms that is not known yet."""
        return replace(self, step=self.step + 1, batch=self.batch + 1, count=self.count + count)

    def told(self, loss: float, norm: float, count: int) -> "Counters":
        """With the loss of a step, and the norm of its gradients."""
        smooth = loss if self.smooth_loss is None else 0.999 * self.smooth_loss + 0.001 * loss
        return replace(self, total=self.total + loss * count, smooth_loss=smooth, grad_norm=norm)


def check_finite(what: str, value: float, step: int) -> None:
    """Raise unless the loss, or the norm of the gradients, is a finite number."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} {value} at step {step}; a smaller learning rate may help")


@dataclass(frozen=True)
class _Step:
    before: Counters  # as far as they were known
    states: dict[str, Array]  # that it began with
    loss: Array
    norm: Array
    count: int
    progress: Progress


class Unread:
    """The steps whose numbers are still on a device, and a flag there: whether all of them were finite.

    The arithmetic on the numbers is done when they have come, in the order of the steps and by the same functions as
    if none had ever been late.
    """

    most = 100  # steps: what they hold stays small, and a run that diverges is noticed

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._good: Array | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def good(self, loss: Any, norm: Array) -> Array:
        """Whether this step and all before it may be done, a boolean on the device."""
        xp, device = ns.common_namespace({"norm": norm})
        good = xp.isfinite(norm) & xp.isfinite(xp.asarray(loss, device=device))
        return good if self._good is None else self._good & good

    def add(self, good: Array, *step: Any) -> None:
        """A step that was done if `good`; see `_Step` for what is to be known of it."""
        self._good = good
        self._steps.append(_Step(*step))

    def read(self, at: Counters) -> tuple[Counters, dict[str, Array] | None, FloatingPointError | None]:
        """Fetch all numbers, and have no steps any more.

        Parameters
        ----------
        at : Counters
            After the last step.

        Returns
        -------
        counters : Counters
            With the numbers; if a step was not finite, those before it.
        states : dict of str to array, or None
            If a step was not finite, those that it began with.
        error : FloatingPointError or None
        """
        values = ns.numbers([number for step in self._steps for number in (step.loss, step.norm)])
        known = self._steps[0].before if self._steps else at
        states, error = None, None
        for step, loss, norm in zip(self._steps, values[::2], values[1::2], strict=True):
            before = replace(step.before, total=known.total, smooth_loss=known.smooth_loss, grad_norm=known.grad_norm)
            try:
                check_finite("the loss is", loss, before.step + 1)
                check_finite("the gradients are", norm, before.step + 1)
            except FloatingPointError as found:
                at, states, error = before, step.states, found
                break
            known = before.told(loss, norm, step.count)
            step.progress.tell(loss=loss, smooth_loss=known.smooth_loss, grad_norm=norm)
        else:
            at = replace(at, total=known.total, smooth_loss=known.smooth_loss, grad_norm=known.grad_norm)
        for step in self._steps:
            if error is not None and not step.progress.known:
                step.progress.__dict__["_fetch"] = _raising(str(error))
        self._steps, self._good = [], None
        return at, states, error


def _raising(message: str) -> Callable[[], Any]:
    def fetch() -> None:
        raise FloatingPointError(message)

    return fetch
