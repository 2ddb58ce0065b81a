"""Optimizers: hyper-parameters in a frozen dataclass, the state in a dict of arrays.

The update rules are those of torch.optim's classes of the same names. A new optimizer is one class with `init` and
`update` (or, below `Optimizer`, with fields, `slots` and `array_rule`) and one line in `OPTIMIZERS`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from rnnx.optim.array_rules import adam_rule, momentum_rule, rmsprop_rule, sgd_rule
from rnnx.optim.base import Optimizer
from rnnx.optim.checks import BelowOne, Flag, NotNegative, Positive
from rnnx.optim.schedules import LearningRate


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent; torch's SGD without momentum.

    Parameters
    ----------
    learning_rate : float or schedule
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p.
    """

    array_rule: ClassVar[Any] = staticmethod(sgd_rule)
    learning_rate: LearningRate = 0.01
    weight_decay: NotNegative = 0.0


@dataclass(frozen=True)
class Momentum(Optimizer):
    r"""Gradient descent with momentum; torch's SGD with momentum.

    .. math::

        v \leftarrow \mu v + (1 - d) g, \qquad \theta \leftarrow \theta - \alpha v

    and with `nesterov` :math:`\theta \leftarrow \theta - \alpha (g + \mu v)`, where v is the new one. The
    course's function, `update_parameters_with_momentum`, uses ``v = beta * v + (1 - beta) * g``. It takes the same
    steps with ``learning_rate / (1 - momentum)``, ten times the rate at 0.9.

    Parameters
    ----------
    learning_rate : float or schedule
    momentum : float, in [0, 1)
    nesterov : bool
        Nesterov momentum; needs `momentum` > 0 and no dampening.
    dampening : float, in [0, 1)
        The d above; as in torch, the gradient of the first step is not dampened.
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p.
    """

    array_rule: ClassVar[Any] = staticmethod(momentum_rule)
    learning_rate: LearningRate = 0.01
    momentum: BelowOne = 0.9
    nesterov: Flag = False
    dampening: BelowOne = 0.0
    weight_decay: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise ValueError(
                "`nesterov` needs `momentum` > 0 and `dampening` = 0; "
                f"got momentum = {self.momentum}, dampening = {self.dampening}"
            )

    @property
    def slots(self) -> tuple[str, ...]:
        """The velocity v."""
        return ("v",)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    r"""RMSProp: every gradient is divided by the root mean square of its history; torch's RMSprop.

    .. math::

        s \leftarrow \alpha s + (1 - \alpha) g^2, \qquad
        \theta \leftarrow \theta - \eta \frac{g}{\sqrt{s} + \epsilon}

    With `centered`, the variance :math:`s - m^2` with :math:`m \leftarrow \alpha m + (1 - \alpha) g` replaces s
    (A. Graves, arXiv:1308.0850). The variance of a nearly constant gradient is almost zero and its steps become very
    large, so use a larger epsilon, such as 1e-4. With `momentum`, a velocity
    :math:`v \leftarrow \mu v + g / (\sqrt{s} + \epsilon)` replaces the fraction.

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

    array_rule: ClassVar[Any] = staticmethod(rmsprop_rule)
    learning_rate: LearningRate = 0.001
    alpha: BelowOne = 0.99
    epsilon: Positive = 1e-8
    momentum: BelowOne = 0.0
    centered: Flag = False
    weight_decay: NotNegative = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean square s; with `centered` the mean m; with `momentum` the velocity v."""
        return ("s",) + ("m",) * self.centered + ("v",) * (self.momentum > 0)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; see `update_parameters_with_adam` for the equations.

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float, in [0, 1)
    epsilon : float
    weight_decay : float
        Adds ``weight_decay * p`` to the gradient of p; decoupled decay (`AdamW`) usually works better.
    """

    array_rule: ClassVar[Any] = staticmethod(adam_rule)
    learning_rate: LearningRate = 0.001
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """The first moment v and the second moment s."""
        return ("v", "s")


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

    array_rule: ClassVar[Any] = partial(adam_rule, decoupled=True)
    weight_decay: NotNegative = 0.01


# `optimizer_config` uses the first name of a class.
OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": partial(Momentum, nesterov=True),
    "rmsprop": RMSProp,
    "rms": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}

# Optimizers whose rules are elementwise.
ELEMENTWISE = (SGD, Momentum, RMSProp, Adam, AdamW)
