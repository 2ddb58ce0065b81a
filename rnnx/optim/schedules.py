"""Learning rates that change: functions of the step t, from 1, for all optimizers of `rnnx.optim`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rnnx._core.checks import integer
from rnnx.optim.checks import at_least_zero, not_negative, positive, set_checked, up_to_one

Schedule = Callable[[int], float]


def check_learning_rate(name: str, value: Any) -> float | Schedule:
    """A positive number as a Python float, or a schedule as it is."""
    return value if callable(value) else positive(name, value)


def learning_rate_at(learning_rate: float | Schedule, t: int) -> float:
    """The learning rate of step t.

    Parameters
    ----------
    learning_rate : float or callable
        As optimizers have it: a number, or a function of the step.
    t : int
        Number of the step, from 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `t` is below 1, or a schedule returns a negative number or one that is not finite.
    TypeError
        If a schedule returns something else than a number.
    """
    t = integer("t", t)
    if not callable(learning_rate):
        return positive("learning_rate", learning_rate)
    return not_negative(f"learning_rate({t})", learning_rate(t))


@dataclass(frozen=True)
class StepDecay:
    r"""Times `factor` after every `every` steps: :math:`\alpha_t = \alpha f^{\lfloor (t - 1) / n \rfloor}`.

    Parameters
    ----------
    initial : float
        The rate of the first `every` steps.
    every : int
    factor : float, in (0, 1]

    Notes
    -----
    torch's StepLR.
    """

    initial: float
    every: int
    factor: float = 0.5

    def __post_init__(self) -> None:
        set_checked(self, initial=positive, every=integer, factor=up_to_one)

    def __call__(self, t: int) -> float:
        """The learning rate of step t, from 1."""
        return self.initial * self.factor ** ((integer("t", t) - 1) // self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    r"""Times `rate` over every `every` steps, a little at each: :math:`\alpha_t = \alpha r^{(t - 1) / n}`.

    Parameters
    ----------
    initial : float
        The rate of the first step.
    rate : float, in (0, 1]
    every : int

    Notes
    -----
    torch's ExponentialLR with every = 1; Keras' ExponentialDecay.
    """

    initial: float
    rate: float
    every: int = 1

    def __post_init__(self) -> None:
        set_checked(self, initial=positive, rate=up_to_one, every=integer)

    def __call__(self, t: int) -> float:
        """The learning rate of step t, from 1."""
        return self.initial * self.rate ** ((integer("t", t) - 1) / self.every)


@dataclass(frozen=True)
class InverseTimeDecay:
    r"""Slower and slower: :math:`\alpha_t = \alpha / (1 + r (t - 1) / n)`.

    Parameters
    ----------
    initial : float
        The rate of the first step.
    rate : float, >= 0
    every : int

    Notes
    -----
    The course's decay has t count epochs: `every` is then the number of steps of an epoch. Keras' InverseTimeDecay.
    """

    initial: float
    rate: float
    every: int = 1

    def __post_init__(self) -> None:
        set_checked(self, initial=positive, rate=not_negative, every=integer)

    def __call__(self, t: int) -> float:
        """The learning rate of step t, from 1."""
        return self.initial / (1 + self.rate * (integer("t", t) - 1) / self.every)


@dataclass(frozen=True)
class LinearWarmup:
    r"""From nearly 0 up to the first rate of `then`, which begins after `steps` steps.

    :math:`\alpha_t = \beta_1 t / n` for t up to n = `steps`, then :math:`\beta_{t - n}`.

    Parameters
    ----------
    then : float or schedule
        :math:`\beta`.
    steps : int
    """

    then: float | Schedule
    steps: int

    def __post_init__(self) -> None:
        set_checked(self, then=check_learning_rate, steps=integer)

    def __call__(self, t: int) -> float:
        """The learning rate of step t, from 1."""
        t = integer("t", t)
        if t > self.steps:
            return learning_rate_at(self.then, t - self.steps)
        return learning_rate_at(self.then, 1) * t / self.steps


@dataclass(frozen=True)
class CosineDecay:
    r"""Half a wave from `initial` to `final` over `steps` steps, then `final`.

    :math:`\alpha_t = \alpha_n + (\alpha_0 - \alpha_n) (1 + \cos(\pi (t - 1) / n)) / 2`

    Source: I. Loshchilov, F. Hutter, arXiv:1608.03983, equation 5, without restarts.

    Parameters
    ----------
    initial : float
        The rate of the first step (with `warmup`: the highest one).
    steps : int
        As many as the training takes, with the warm-up.
    final : float, >= 0
    warmup : int
        So many steps at first go linearly up to `initial`: `LinearWarmup` of a wave over the remaining steps.

    Notes
    -----
    torch's CosineAnnealingLR.
    """

    initial: float
    steps: int
    final: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        set_checked(self, initial=positive, steps=integer, final=not_negative, warmup=at_least_zero)
        if self.warmup >= self.steps:
            raise ValueError(f"`warmup` must be below `steps` = {self.steps}; got {self.warmup}")

    def __call__(self, t: int) -> float:
        """The learning rate of step t, from 1."""
        t = integer("t", t)
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
