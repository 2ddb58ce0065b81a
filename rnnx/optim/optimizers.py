"""Optimizers: hyper-parameters in a frozen dataclass, the state in a dict of arrays.

The update rules are those of torch.optim's classes of the same names. A new optimizer is one class with `init` and
`update` (or a subclass of `Optimizer` with fields, `slots`, `numbers` and `rule`) and one line in `OPTIMIZERS`.
In the rules, p is the parameter and g its gradient; v, s and m are the state.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from rnnx.cells.vocabulary import Ops
from rnnx.engines.operations import Numbers
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

    See Also
    --------
    update_parameters_with_sgd, Momentum, Adam

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> optimizer = rnnx.SGD(0.1)
    >>> parameters, state = optimizer.update(parameters, grads, optimizer.init(parameters), t=1)
    >>> parameters["W"].round(3)
    array([[0.95, 1.1 ]])
    """

    learning_rate: LearningRate = 0.01
    weight_decay: NotNegative = 0.0

    def numbers(self, rate: float, t: int) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        del t
        return {"rate": rate, **_decay(self)}

    @staticmethod
    def rule(ops: Ops, n: Numbers, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        """See `Optimizer.rule`."""
        del ops, state
        return (p - n["rate"] * _decayed(n, p, g),)


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

    See Also
    --------
    update_parameters_with_momentum, SGD

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> optimizer = rnnx.Momentum(0.1, nesterov=True)
    >>> parameters, state = optimizer.update(parameters, grads, optimizer.init(parameters), t=1)
    >>> parameters["W"].round(3)
    array([[0.905, 1.19 ]])
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

    def numbers(self, rate: float, t: int) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        numbers = {"rate": rate, "momentum": self.momentum, **_decay(self)}
        if self.dampening:
            numbers["new"] = 1 - self.dampening if t > 1 else 1.0
        return numbers | ({"ahead": self.momentum} if self.nesterov else {})

    @staticmethod
    def rule(ops: Ops, n: Numbers, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        """See `Optimizer.rule`."""
        del ops
        (v,) = state
        g = _decayed(n, p, g)
        if "new" in n:
            g = n["new"] * g
        v = n["momentum"] * v + g
        return p - n["rate"] * (g + n["ahead"] * v if "ahead" in n else v), v


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

    See Also
    --------
    update_parameters_with_rmsprop, Adam

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> optimizer = rnnx.RMSProp(0.01)
    >>> parameters, state = optimizer.update(parameters, grads, optimizer.init(parameters), t=1)
    >>> parameters["W"].round(3)
    array([[0.9, 1.1]])
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

    def numbers(self, rate: float, t: int) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        del t
        numbers = {"rate": rate, "alpha": self.alpha, "new": 1 - self.alpha, "epsilon": self.epsilon, **_decay(self)}
        numbers |= {"centered": 1.0} if self.centered else {}
        return numbers | ({"momentum": self.momentum} if self.momentum else {})

    @staticmethod
    def rule(ops: Ops, n: Numbers, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        """See `Optimizer.rule`."""
        g = _decayed(n, p, g)
        s = n["alpha"] * state[0] + n["new"] * (g * g)
        new, variance = [s], s
        if "centered" in n:
            m = n["alpha"] * state[1] + n["new"] * g
            new.append(m)
            # Rounding can make the variance of a constant gradient negative.
            variance = ops.maximum(s - m * m, ops.zeros_like(m))
        step = g / (ops.sqrt(variance) + n["epsilon"])
        if "momentum" in n:
            step = n["momentum"] * state[-1] + step
            new.append(step)
        return p - n["rate"] * step, *new


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

    See Also
    --------
    update_parameters_with_adam, AdamW, CosineDecay

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> optimizer = rnnx.Adam(rnnx.CosineDecay(0.01, steps=1000))
    >>> parameters, state = optimizer.update(parameters, grads, optimizer.init(parameters), t=1)
    >>> parameters["W"].round(3)
    array([[0.99, 1.01]])
    """

    learning_rate: LearningRate = 0.001
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0

    slots = ("v", "s")

    def numbers(self, rate: float, t: int) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        # Numerator and denominator are both multiplied by sqrt(1 - beta2**t).
        root = (1 - self.beta2**t) ** 0.5
        return {
            "beta1": self.beta1,
            "new1": 1 - self.beta1,
            "beta2": self.beta2,
            "new2": 1 - self.beta2,
            "epsilon": self.epsilon * root,
            "rate": rate * root / (1 - self.beta1**t),
            **self._decay(rate),
        }

    def _decay(self, rate: float) -> dict[str, float]:
        del rate
        return _decay(self)

    @staticmethod
    def rule(ops: Ops, n: Numbers, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        """See `Optimizer.rule`."""
        v, s = state
        g = _decayed(n, p, g)
        if "kept" in n:
            p = n["kept"] * p
        v = n["beta1"] * v + n["new1"] * g
        s = n["beta2"] * s + n["new2"] * (g * g)
        return p - n["rate"] * (v / (ops.sqrt(s) + n["epsilon"])), v, s


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay; see `update_parameters_with_adamw`.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for `Adam`.
    weight_decay : float
        Each step first subtracts ``learning_rate * weight_decay * p`` from p.

    See Also
    --------
    update_parameters_with_adamw, Adam

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> optimizer = rnnx.AdamW(0.01, weight_decay=0.1)
    >>> parameters, state = optimizer.update(parameters, grads, optimizer.init(parameters), t=1)
    >>> parameters["W"].round(3)
    array([[0.989, 1.009]])
    """

    weight_decay: NotNegative = 0.01

    def _decay(self, rate: float) -> dict[str, float]:
        return {"kept": 1 - rate * self.weight_decay} if self.weight_decay else {}


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


def _decay(optimizer: Any) -> dict[str, float]:
    return {"decay": optimizer.weight_decay} if optimizer.weight_decay else {}


def _decayed(n: Numbers, p: Any, g: Any) -> Any:
    """Return the gradient of loss + decay / 2 * p**2."""
    return g + n["decay"] * p if "decay" in n else g
