"""Optimizers: hyper-parameters in a frozen dataclass, what changes from step to step in a dict of arrays.

The update rules are those of torch.optim's classes of the same name. A new optimizer is one class with `init` and
`update` (or, below `Optimizer`, with `slots` and `rule`), and one line in `OPTIMIZERS`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rnnx.optim.apply import Rule
from rnnx.optim.array_rules import adam_rule, momentum_rule, rmsprop_rule, sgd_rule
from rnnx.optim.base import Optimizer
from rnnx.optim.checks import below_one, flag, not_negative, positive, set_checked
from rnnx.optim.schedules import Schedule, check_learning_rate


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, torch's SGD without momentum.

    Parameters
    ----------
    learning_rate : float or schedule
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p.
    """

    learning_rate: float | Schedule = 0.01
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        set_checked(self, learning_rate=check_learning_rate, weight_decay=not_negative)

    def rule(self, rate: float, t: int) -> Rule:
        """See `Optimizer`."""
        del t
        return partial(sgd_rule, rate=rate, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Momentum(Optimizer):
    r"""Gradient descent with momentum, torch's SGD with momentum.

    .. math::

        v \leftarrow \mu v + (1 - d) g, \qquad \theta \leftarrow \theta - \alpha v

    and with `nesterov` :math:`\theta \leftarrow \theta - \alpha (g + \mu v)`, v being the new one. The course's
    function, `update_parameters_with_momentum`, has ``v = beta * v + (1 - beta) * g``: it takes the same steps with
    ``learning_rate / (1 - momentum)``, ten times this class's at 0.9.

    Parameters
    ----------
    learning_rate : float or schedule
    momentum : float, in [0, 1)
    nesterov : bool
        Look ahead; it needs momentum, and no dampening.
    dampening : float, in [0, 1)
        The d above; as in torch, the first step's gradient counts whole.
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    dampening: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        set_checked(self, learning_rate=check_learning_rate, momentum=below_one, nesterov=flag)
        set_checked(self, dampening=below_one, weight_decay=not_negative)
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise ValueError(
                "`nesterov` needs `momentum` > 0 and `dampening` = 0; "
                f"got momentum = {self.momentum}, dampening = {self.dampening}"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """v, the velocity."""
        return ("v",)

    def rule(self, rate: float, t: int) -> Rule:
        """See `Optimizer`."""
        share = 1.0 if t == 1 else 1 - self.dampening
        options: dict[str, Any] = {"share": share, "nesterov": self.nesterov, "weight_decay": self.weight_decay}
        return partial(momentum_rule, rate=rate, momentum=self.momentum, **options)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    r"""Every gradient over the root of the mean of its squares, torch's RMSprop.

    .. math::

        s \leftarrow \alpha s + (1 - \alpha) g^2, \qquad
        \theta \leftarrow \theta - \eta \frac{g}{\sqrt{s} + \epsilon}

    `centered`: :math:`s - m^2`, the variance, in place of s, with :math:`m \leftarrow \alpha m + (1 - \alpha) g` (A.
    Graves, arXiv:1308.0850). Gradients that hardly change have next to none, and take very large steps: give it a
    larger epsilon, 1e-4 say. `momentum`: a velocity :math:`v \leftarrow \mu v + g / (\sqrt{s} + \epsilon)` in place of
    the fraction.

    Parameters
    ----------
    learning_rate : float or schedule
        The eta above.
    alpha : float, in [0, 1)
    epsilon : float
    momentum : float, in [0, 1)
    centered : bool
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p.
    """

    learning_rate: float | Schedule = 0.001
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        set_checked(self, learning_rate=check_learning_rate, alpha=below_one, epsilon=positive)
        set_checked(self, momentum=below_one, centered=flag, weight_decay=not_negative)

    @property
    def slots(self) -> tuple[str, ...]:
        """s, the mean square; m, the mean, if centered; v, the velocity, if there is momentum."""
        return ("s",) + ("m",) * self.centered + ("v",) * (self.momentum > 0)

    def rule(self, rate: float, t: int) -> Rule:
        """See `Optimizer`."""
        del t
        return partial(
            rmsprop_rule,
            rate=rate,
            alpha=self.alpha,
            epsilon=self.epsilon,
            momentum=self.momentum,
            centered=self.centered,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; the equations stand at `update_parameters_with_adam`.

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float, in [0, 1)
    epsilon : float
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p; `AdamW` is usually the better way.
    """

    learning_rate: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        set_checked(self, learning_rate=check_learning_rate, beta1=below_one, beta2=below_one)
        set_checked(self, epsilon=positive, weight_decay=not_negative)

    @property
    def slots(self) -> tuple[str, ...]:
        """Both moments: v, the first, and s, the second."""
        return ("v", "s")

    def rule(self, rate: float, t: int) -> Rule:
        """See `Optimizer`."""
        betas: dict[str, Any] = {"beta1": self.beta1, "beta2": self.beta2}
        return partial(adam_rule, t=t, rate=rate, epsilon=self.epsilon, weight_decay=self.weight_decay, **betas)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: ``p -= learning_rate * weight_decay * p`` before its step.

    See `update_parameters_with_adamw`.

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float, in [0, 1)
    epsilon : float
    weight_decay : float
    """

    weight_decay: float = 0.01

    def rule(self, rate: float, t: int) -> Rule:
        """See `Optimizer`."""
        return partial(super().rule(rate, t), decoupled=True)


# The first name of a class is the one that `optimizer_config` gives.
OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": partial(Momentum, nesterov=True),
    "rmsprop": RMSProp,
    "rms": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}

# Their rules look at one element at a time.
ELEMENTWISE = (SGD, Momentum, RMSProp, Adam, AdamW)
