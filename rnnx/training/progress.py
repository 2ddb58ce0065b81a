"""What a run reports about its steps. On a device, a step's numbers are fetched after the step is done."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.training.counters import Counters
from rnnx.training.finite import check_finite


class Numbers(NamedTuple):
    """The numbers of a step."""

    loss: float
    smooth_loss: float | None
    grad_norm: float


@dataclass
class Progress:
    """One optimizer step, or an evaluation.

    On a device, `loss`, `smooth_loss` and `grad_norm` stay there until one of them is read, which fetches the numbers
    of all steps so far.

    Attributes
    ----------
    step, epoch : int
        Steps done; the current epoch, from 1.
    loss : float
        Loss of this step's batch or, in an evaluation, the exact mean over the epoch so far, in the model's unit: nats
        per character for a character model.
    smooth_loss : float
        Moving average of `loss` over about the last tenth of the steps, but at most a hundred. It begins with the first
        loss; after n steps, a new loss has the weight max(0.01, 10 / (n + 9)).
    validation_loss : float or None
        In an evaluation with a validation set.
    learning_rate : float
    grad_norm : float
        Global gradient norm of the last step, before clipping.
    evaluation : bool

    Raises
    ------
    FloatingPointError
        When a fetched number is read, if the loss or the gradients of this step or an earlier one were not finite. The
        step was then not applied.

    See Also
    --------
    Trainer, MetricsWriter

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.optim import SGD
    >>> from rnnx.training import Trainer
    >>> data = Examples(np.ones((1, 8, 5)), np.ones((1, 8)))
    >>> trainer = Trainer(SequenceRegressor(1, 4, rng=0), SGD(0.1))
    >>> for progress in trainer.run(data, data, epochs=1, batch_size=4):
    ...     print(progress.step, progress.evaluation, progress.validation_loss is not None)
    1 False False
    2 False False
    2 True True
    """

    step: int
    epoch: int
    learning_rate: float
    numbers: Numbers | None = None  # None: still on a device
    validation_loss: float | None = None
    evaluation: bool = False
    fetch: Callable[[], None] | None = field(default=None, compare=False, repr=False)  # sets `numbers` or `error`
    error: str | None = field(default=None, compare=False, repr=False)

    loss = property(lambda self: self._fetched().loss, doc="The loss.")
    smooth_loss = property(lambda self: self._fetched().smooth_loss, doc="The smoothed loss.")
    grad_norm = property(lambda self: self._fetched().grad_norm, doc="The norm of the gradients.")

    @property
    def known(self) -> bool:
        """Whether the numbers are on the host."""
        return self.numbers is not None

    def _fetched(self) -> Numbers:
        if self.numbers is None and self.error is None and self.fetch is not None:
            self.fetch()
        if self.numbers is None:
            raise FloatingPointError(self.error)
        return self.numbers

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a file of metrics."""
        names = ("step", "epoch", "loss", "smooth_loss", "validation_loss", "learning_rate", "grad_norm", "evaluation")
        return {name: getattr(self, name) for name in names}

    def __getstate__(self) -> dict[str, Any]:
        self._fetched()
        return {**self.__dict__, "fetch": None}  # a copy does not refer to the trainer


@dataclass(frozen=True)
class _Step:
    before: Counters  # without the numbers of pending steps
    states: dict[str, Array]  # initial states
    loss: Array
    norm: Array
    count: int
    progress: Progress


@dataclass(frozen=True)
class PendingSteps:
    """Steps whose numbers are still on a device, with a flag there: whether all losses and gradients are finite."""

    max_steps: ClassVar[int] = 100  # limits memory, and the delay in noticing a diverged run

    steps: tuple[_Step, ...] = ()
    all_finite: Array | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def finite(self, loss: Any, norm: Array) -> Array:
        """Return, as a boolean on the device, whether this step and all pending ones are finite."""
        xp, device = ns.common_namespace({"norm": norm})
        finite = xp.isfinite(norm) & xp.isfinite(xp.asarray(loss, device=device))
        return finite if self.all_finite is None else self.all_finite & finite

    def add(self, finite: Array, *step: Any) -> "PendingSteps":
        """Return these steps and one more, which was applied if `finite`; the other arguments are those of `_Step`."""
        return PendingSteps((*self.steps, _Step(*step)), finite)

    def fetch(self, at: Counters) -> tuple[Counters, dict[str, Array] | None, FloatingPointError | None]:
        """Fetch the numbers of all steps, given the counters after the last one.

        Return the counters with the numbers, None, None; or, if a step was not finite, the counters before it, its
        initial states, and an error.
        """
        values = ns.numbers([number for step in self.steps for number in (step.loss, step.norm)])
        known, states, error = self.steps[0].before, None, None
        for step, loss, norm in zip(self.steps, values[::2], values[1::2], strict=True):
            if error is None:
                before = step.before.with_numbers_of(known)
                try:
                    check_finite("the loss is", loss, before.step + 1)
                    check_finite("the gradients are", norm, before.step + 1)
                    known = before.with_numbers(loss, norm, step.count)
                    step.progress.numbers = Numbers(loss, known.smooth_loss, norm)
                except FloatingPointError as found:
                    at, states, error = before, step.states, found
            if error is not None:
                step.progress.error = str(error)
        return at if error else at.with_numbers_of(known), states, error
