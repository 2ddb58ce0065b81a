"""Optimizers: hyper-parameters in a frozen dataclass, the state in a dict of arrays.

The update rules are those of torch.optim's classes of the same names. A new optimizer is one class with `init` and
`update` (or a subclass of `Optimizer` with fields, `slots` and `update_array`) and one line in `OPTIMIZERS`.
In the rules, p is the parameter and g its gradient; v, s and m are the state.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rnnx._core.arrays import Array
from rnnx.optim.base import Arrays, Optimizer, Update
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

    learning_rate: LearningRate = 0.01
    weight_decay: NotNegative = 0.0

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """See `Optimizer.update_array`."""
        del state
        if self.weight_decay:
            g = _decayed(p, g, self.weight_decay)
        return (u.subtract(p, u.rate * g),)


@dataclass(frozen=True)
class Momentum(Optimizer):
    r"""Gradient descent with momentum; torch's SGD with momentum.

    .. math::

        v \leftarrow \mu v + (1 - d) g, \qquad \theta \leftarrow \theta - \alpha v

    and with `nesterov` :math:`\theta \leftarrow \theta - \alpha (g + \mu v)`, with the new v. The course's function,
    `update_parameters_with_momentum`, takes the same steps with ``learning_rate / (1 - momentum)``, ten times the rate
    at 0.9.

    Parameters
    ----------
    learning_rate, weight_decay
        As for `SGD`.
    momentum : float, in [0, 1)
    nesterov : bool
        Nesterov momentum; needs `momentum` > 0 and no dampening.
    dampening : float, in [0, 1)
        The d above; as in torch, the gradient of the first step is not dampened.
    """

    learning_rate: LearningRate = 0.01
    momentum: BelowOne = 0.9
    nesterov: Flag = False
    dampening: BelowOne = 0.0
    weight_decay: NotNegative = 0.0

    slots = ("v",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise ValueError(
                "`nesterov` needs `momentum` > 0 and `dampening` = 0; "
                f"got momentum = {self.momentum}, dampening = {self.dampening}"
            )

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """See `Optimizer.update_array`."""
        (v,) = state
        if self.weight_decay:
            g = _decayed(p, g, self.weight_decay)
        if self.dampening and u.t > 1:
            g = (1 - self.dampening) * g
        v = u.accumulate(v, self.momentum, g)
        return u.subtract(p, u.rate * (g + self.momentum * v if self.nesterov else v)), v


@dataclass(frozen=True)
class RMSProp(Optimizer):
    r"""RMSProp; torch's RMSprop. See `update_parameters_with_rmsprop` for the equations.

    With `centered`, the variance :math:`s - m^2` with :math:`m \leftarrow \alpha m + (1 - \alpha) g` replaces s
    (A. Graves, arXiv:1308.0850). A nearly constant gradient has almost no variance and makes very large steps, so use
    a larger epsilon, such as 1e-4. With `momentum`, a velocity
    :math:`v \leftarrow \mu v + g / (\sqrt{s} + \epsilon)` replaces the fraction.

    Parameters
    ----------
    learning_rate, epsilon, weight_decay
        As for `Adam`.
    alpha, momentum : float, in [0, 1)
    centered : bool
    """

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

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """See `Optimizer.update_array`."""
        if self.weight_decay:
            g = _decayed(p, g, self.weight_decay)
        new = [u.accumulate(state[0], self.alpha, (1 - self.alpha) * (g * g))]
        variance = new[0]
        if self.centered:
            m = u.accumulate(state[1], self.alpha, (1 - self.alpha) * g)
            new.append(m)
            # Rounding can make the variance of a constant gradient negative.
            variance = u.xp.maximum(variance - m * m, u.xp.zeros_like(m))
        step = g / (u.xp.sqrt(variance) + self.epsilon)
        if self.momentum:
            step = u.accumulate(state[-1], self.momentum, step)
            new.append(step)
        return u.subtract(p, u.rate * step), *new


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; see `update_parameters_with_adam` for the equations.

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float, in [0, 1)
    epsilon : float > 0
    weight_decay : float
        As for `SGD`; decoupled decay (`AdamW`) usually works better.
    """

    learning_rate: LearningRate = 0.001
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0

    slots = ("v", "s")

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """See `Optimizer.update_array`."""
        if self.weight_decay:
            p, g = self._decayed(p, g, u)
        v, s = state
        v = u.accumulate(v, self.beta1, (1 - self.beta1) * g)
        s = u.accumulate(s, self.beta2, (1 - self.beta2) * (g * g))
        # Numerator and denominator are both multiplied by sqrt(1 - beta2**t), which saves one pass over the array.
        root = (1 - self.beta2**u.t) ** 0.5
        denominator = u.xp.sqrt(s)
        denominator += self.epsilon * root
        step = v / denominator
        step *= u.rate * root / (1 - self.beta1**u.t)
        return u.subtract(p, step), v, s

    def _decayed(self, p: Array, g: Array, u: Update) -> tuple[Array, Array]:
        """Return the parameter and the gradient that the step starts from, if there is weight decay."""
        del u
        return p, _decayed(p, g, self.weight_decay)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay; see `update_parameters_with_adamw`.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.
    weight_decay : float
        Each step first subtracts ``learning_rate * weight_decay * p`` from p.
    """

    weight_decay: NotNegative = 0.01

    def _decayed(self, p: Array, g: Array, u: Update) -> tuple[Array, Array]:
        return u.scale(p, 1 - u.rate * self.weight_decay), g


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


def _decayed(p: Array, g: Array, weight_decay: float) -> Array:
    """Return the gradient of loss + weight_decay / 2 * p**2."""
    return g + weight_decay * p
