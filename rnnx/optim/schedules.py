"""Learning-rate schedules: functions of the step number t, from 1, for all optimizers of `rnnx.optim`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from rnnx._core.checks import integer
from rnnx.optim.checks import Checked, Count, CountOrZero, NotNegative, Positive, UpToOne, not_negative, positive

Schedule = Callable[[int], float]


def _check_learning_rate(name: str, value: Any) -> float | Schedule:
    return value if callable(value) else positive(name, value)


LearningRate = Annotated[float | Schedule, _check_learning_rate]


def learning_rate_at(learning_rate: float | Schedule, t: int) -> float:
    """Return the learning rate of step t.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of the step number.
    t : int
        Step number, from 1.

    Raises
    ------
    ValueError, TypeError
        If `t` is not a positive integer, or a schedule does not return a finite number of at least 0.

    See Also
    --------
    StepDecay, CosineDecay

    Examples
    --------
    >>> from rnnx.optim import LinearWarmup, learning_rate_at
    >>> learning_rate_at(0.1, t=7), learning_rate_at(lambda t: 1 / t, t=4)
    (0.1, 0.25)
    """
    t = integer("t", t)
    if callable(learning_rate):
        try:
            rate = learning_rate(t)
        except TypeError as error:
            expected = "a number or a function of the step number"
            raise TypeError(f"`learning_rate` must be {expected}; learning_rate({t}) failed: {error}") from error
        return not_negative(f"learning_rate({t})", rate)
    return positive("learning_rate", learning_rate)


class _Schedule(Checked, ABC):
    """Base of the schedules below."""

    def __call__(self, t: int) -> float:
        """Return the learning rate of step t, from 1."""
        return self._rate(integer("t", t))

    @abstractmethod
    def _rate(self, t: int) -> float: ...


@dataclass(frozen=True)
class StepDecay(_Schedule):
    r"""Multiply by `factor` every `every` steps, like torch's StepLR.

    :math:`\alpha_t = \alpha f^{\lfloor (t - 1) / n \rfloor}`

    Parameters
    ----------
    initial : float
        Rate of the first `every` steps.
    every : int
    factor : float, in (0, 1]

    See Also
    --------
    ExponentialDecay, CosineDecay

    Examples
    --------
    >>> import rnnx
    >>> rate = rnnx.StepDecay(0.1, every=10)
    >>> [round(rate(t), 4) for t in (1, 10, 11, 21)]
    [0.1, 0.1, 0.05, 0.025]
    """

    initial: Positive
    every: Count
    factor: UpToOne = 0.5

    def _rate(self, t: int) -> float:
        return self.initial * self.factor ** ((t - 1) // self.every)


@dataclass(frozen=True)
class ExponentialDecay(_Schedule):
    r"""Multiply by `rate` over `every` steps, like Keras's ExponentialDecay (torch's ExponentialLR with every = 1).

    :math:`\alpha_t = \alpha r^{(t - 1) / n}`

    Parameters
    ----------
    initial : float
        Rate of the first step.
    rate : float, in (0, 1]
    every : int

    See Also
    --------
    StepDecay, InverseTimeDecay

    Examples
    --------
    >>> import rnnx
    >>> rate = rnnx.ExponentialDecay(0.1, rate=0.5, every=10)
    >>> [round(rate(t), 4) for t in (1, 11, 21)]
    [0.1, 0.05, 0.025]
    """

    initial: Positive
    rate: UpToOne
    every: Count = 1

    def _rate(self, t: int) -> float:
        return self.initial * self.rate ** ((t - 1) / self.every)


@dataclass(frozen=True)
class InverseTimeDecay(_Schedule):
    r"""Inverse time decay, like Keras's InverseTimeDecay: :math:`\alpha_t = \alpha / (1 + r (t - 1) / n)`.

    In the course, t counts epochs: set `every` to the number of steps per epoch.

    Parameters
    ----------
    initial : float
        Rate of the first step.
    rate : float, >= 0
    every : int

    See Also
    --------
    ExponentialDecay

    Examples
    --------
    >>> import rnnx
    >>> rate = rnnx.InverseTimeDecay(0.1, rate=1.0)
    >>> [round(rate(t), 4) for t in (1, 2, 4)]
    [0.1, 0.05, 0.025]
    """

    initial: Positive
    rate: NotNegative
    every: Count = 1

    def _rate(self, t: int) -> float:
        return self.initial / (1 + self.rate * (t - 1) / self.every)


@dataclass(frozen=True)
class LinearWarmup(_Schedule):
    r"""Rise linearly to the initial rate of `then`, which takes over after `steps` steps.

    :math:`\alpha_t = \beta_1 t / n` for t up to n = `steps`, then :math:`\beta_{t - n}`.

    Parameters
    ----------
    then : float or schedule
        :math:`\beta`.
    steps : int

    See Also
    --------
    CosineDecay

    Examples
    --------
    >>> import rnnx
    >>> rate = rnnx.LinearWarmup(0.1, steps=4)
    >>> [round(rate(t), 4) for t in (1, 2, 4, 100)]
    [0.025, 0.05, 0.1, 0.1]
    """

    then: LearningRate
    steps: Count

    def _rate(self, t: int) -> float:
        if t > self.steps:
            return learning_rate_at(self.then, t - self.steps)
        return learning_rate_at(self.then, 1) * t / self.steps


@dataclass(frozen=True)
class CosineDecay(_Schedule):
    r"""Fall from `initial` to `final` over `steps` steps along half a cosine wave, then stay at `final`.

    :math:`\alpha_t = \alpha_n + (\alpha_0 - \alpha_n) (1 + \cos(\pi (t - 1) / n)) / 2`

    Source: I. Loshchilov, F. Hutter, arXiv:1608.03983, equation 5, without restarts; torch's CosineAnnealingLR.

    Parameters
    ----------
    initial : float
        Rate of the first step; with `warmup`, the highest rate.
    steps : int
        Total number of steps, including the warm-up.
    final : float, >= 0
    warmup : int
        Number of initial steps that rise linearly to `initial`; the wave then spans the remaining steps.

    See Also
    --------
    LinearWarmup, StepDecay

    Examples
    --------
    >>> import rnnx
    >>> rate = rnnx.CosineDecay(0.1, steps=100, warmup=10)
    >>> [round(rate(t), 4) for t in (1, 10, 55, 100)]
    [0.01, 0.1, 0.0517, 0.0]
    """

    initial: Positive
    steps: Count
    final: NotNegative = 0.0
    warmup: CountOrZero = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.steps:
            raise ValueError(f"`warmup` must be below `steps` = {self.steps}; got {self.warmup}")

    def _rate(self, t: int) -> float:
        if t <= self.warmup:
            return self.initial * t / self.warmup
        done = min((t - 1 - self.warmup) / (self.steps - self.warmup), 1.0)
        return self.final + (self.initial - self.final) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Any] = {
    "cosine": CosineDecay,
    "exponential": ExponentialDecay,
    "inverse_time": InverseTimeDecay,
    "step": StepDecay,
    "warmup": LinearWarmup,
}
