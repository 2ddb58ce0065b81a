"""Losses of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rnnx._core.arrays import Array
from rnnx._core.checks import real
from rnnx._core.layout import valid_examples
from rnnx.cells.vocabulary import Ops
from rnnx.functional.losses import SQUARED_ERROR
from rnnx.losses.loss import Loss
from rnnx.losses.quantiles import checked_levels


@dataclass(frozen=True, repr=False)
class SquaredError(Loss):
    """The squared error, (y - target)^2, whose best prediction is the mean.

    See Also
    --------
    AbsoluteError, Huber, rnnx.squared_error

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import SquaredError
    >>> targets = np.array([[[0.0, 0.0, 9.0]]])  # (n_y, m, T): one number at each of three steps
    >>> [float(SquaredError()(np.full((1, 1, 3), y), targets)[0]) for y in (3.0, 0.0)]  # mean and median
    [18.0, 27.0]
    """

    name = "squared_error"
    rule = SQUARED_ERROR


@dataclass(frozen=True, repr=False)
class AbsoluteError(Loss):
    """The absolute error, whose best prediction is the median.

    See Also
    --------
    SquaredError, Huber, Quantile

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import AbsoluteError
    >>> targets = np.array([[[0.0, 0.0, 9.0]]])  # their median is 0, their mean 3
    >>> [float(AbsoluteError()(np.full((1, 1, 3), y), targets)[0]) for y in (0.0, 3.0)]
    [3.0, 4.0]
    """

    name = "absolute_error"

    def value(self, ops: Ops, y: Any, target: Any) -> Any:
        """Return the loss of one target."""
        return abs(y - target)


@dataclass(frozen=True, repr=False)
class Huber(Loss):
    """Half the squared error d^2 / 2 up to an absolute error of delta, and delta (d - delta / 2) beyond.

    See Also
    --------
    SquaredError, AbsoluteError, StudentT

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import Huber
    >>> loss, dy = Huber(delta=1.0)(np.array([[[0.5, 100.0]]]), np.zeros((1, 1, 2)))
    >>> 2 * dy  # for each of the two steps: an outlier pulls no more than an error of delta
    array([[[0.5, 1. ]]])
    """

    delta: float = 1.0
    name = "huber"

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", real("delta", self.delta, "(0, inf)"))

    def value(self, ops: Ops, y: Any, target: Any) -> Any:
        """Return the loss of one target."""
        d = abs(y - target)
        near = ops.minimum(d, self.delta)
        return near * (d - 0.5 * near)


@dataclass(frozen=True, repr=False)
class Quantile(Loss):
    """The pinball losses of several quantiles, averaged over them.

    The predicted quantiles never cross: the model puts out the one nearest to 0.5 and the logarithms of the distances
    between neighbours (by way of softplus).

    Parameters
    ----------
    quantiles : sequence of float
        Increasing, between 0 and 1.

    See Also
    --------
    Gaussian, AbsoluteError, rnnx.metrics.pinball_loss

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import Quantile
    >>> loss = Quantile([0.1, 0.5, 0.9])
    >>> z = np.zeros((loss.n_outputs(1), 4))  # three outputs for one target, four examples
    >>> {level: a.shape for level, a in loss.describe(np, z).items()}
    {'0.1': (1, 4), '0.5': (1, 4), '0.9': (1, 4)}
    >>> [round(float(a[0, 0]), 3) for a in loss.describe(np, z).values()]  # they cannot cross
    [-0.693, 0.0, 0.693]
    """

    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    name = "quantile"

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", checked_levels(self.quantiles))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The quantiles as text."""
        return tuple([str(q) for q in self.quantiles])

    @property
    def point(self) -> int:
        """The quantile nearest to 0.5."""
        return min(range(len(self.quantiles)), key=lambda k: abs(self.quantiles[k] - 0.5))

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return the quantiles."""
        values = list(outputs)
        for k in range(self.point + 1, len(values)):
            values[k] = values[k - 1] + ops.softplus(outputs[k])
        for k in range(self.point - 1, -1, -1):
            values[k] = values[k + 1] - ops.softplus(outputs[k])
        return tuple(values)

    def quantile(self, described: Mapping[str, Any], level: float) -> Any:
        """Return one of the quantiles."""
        if level not in self.quantiles:
            raise ValueError(f"`quantiles` must be among those of the loss, {list(self.quantiles)}; got {level}")
        return described[str(level)]

    def value(self, ops: Ops, *operands: Any) -> Any:
        """Return the loss of one target."""
        *outputs, target = operands
        total: Any = 0.0
        for q, y in zip(self.quantiles, self.distribution(ops, *outputs), strict=True):
            d = target - y
            total = total + ops.maximum(q * d, (q - 1) * d)
        return total / len(self.quantiles)


@dataclass(frozen=True, repr=False)
class NSE(Loss):
    """The squared error of a sequence divided by the variance of its targets: 1 minus the Nash-Sutcliffe efficiency.

    For predictions at every step.

    Parameters
    ----------
    epsilon : float >= 0
        Added to the standard deviations, so that flat sequences do not dominate.

    See Also
    --------
    ESR, SquaredError

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import NSE
    >>> river = np.array([[[1.0, 3.0, 2.0, 4.0]]])  # (n_y, m, T)
    >>> mean = np.full_like(river, river.mean())
    >>> [float(NSE(epsilon=0)(y, river)[0]) for y in (river, mean)]  # an efficiency of 1, and of 0
    [0.0, 1.0]
    """

    epsilon: float = 0.1
    name = "nse"
    by_step = False
    rule = SQUARED_ERROR
    _about_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", real("epsilon", self.epsilon, "[0, inf)"))

    def compare(
        self, xp: Any, y: Array, targets: Array, ends: Array | None = None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute the loss and its gradient without checks."""
        valid = xp.ones_like(targets[0, :, :], dtype=xp.bool)
        if ends is not None:
            valid = valid_examples(xp, ends, targets.shape[2])
        if weights is not None:
            valid = valid & (weights != 0)
        count = xp.sum(valid, axis=1, keepdims=True)
        count = xp.astype(xp.maximum(count, xp.ones_like(count)), y.dtype)
        zero = xp.zeros_like(targets)
        mean: Any = 0.0
        if self._about_mean:
            mean = xp.sum(xp.where(valid, targets, zero), axis=2, keepdims=True) / count
        d = xp.where(valid, targets - mean, zero)
        scale = xp.sqrt(xp.sum(d * d, axis=2, keepdims=True) / count) + self.epsilon
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
        loss, dy = super().compare(xp, y / scale, targets / scale, ends, weights)
        return loss, dy / scale


@dataclass(frozen=True, repr=False)
class ESR(NSE):
    """The error-to-signal ratio: the squared error of a sequence divided by the mean square of its targets.

    For audio and other signals around 0, with predictions at every step.

    Parameters
    ----------
    epsilon : float >= 0
        Added to the root of the mean square, so that silence does not dominate.

    See Also
    --------
    NSE, SquaredError

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import ESR
    >>> sound = np.array([[[1.0, -1.0, 1.0, -1.0], [0.1, -0.1, 0.1, -0.1]]])  # a loud and a soft signal
    >>> float(ESR(epsilon=0)(0 * sound, sound)[0])  # silence instead of them
    1.0
    """

    epsilon: float = 0.01
    name = "esr"
    _about_mean = False
