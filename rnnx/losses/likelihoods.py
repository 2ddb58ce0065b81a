"""Negative log-likelihoods of distributions, whose parameters a model puts out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.checks import real
from rnnx.cells.vocabulary import Ops
from rnnx.losses.loss import Loss
from rnnx.losses.quantiles import normal_quantile, poisson_quantiles, t_quantile, t_quantiles


@dataclass(frozen=True, repr=False)
class Gaussian(Loss):
    """The negative log-likelihood of a normal distribution with a mean and a scale (standard deviation).

    Parameters
    ----------
    least_scale : float > 0
        Added to the scale, which is a softplus, so that the likelihood is bounded.

    See Also
    --------
    StudentT, Quantile

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import Gaussian
    >>> loss = Gaussian()
    >>> z = np.array([[2.0, 2.0], [0.5, 5.0]])  # a row for the mean and one for the scale, before its softplus
    >>> outputs = loss.describe(np, z)
    >>> outputs["mean"], outputs["scale"].round(3)
    (array([[2., 2.]]), array([[0.974, 5.007]]))
    >>> loss.quantile(outputs, 0.9).round(2)  # the mean and 1.28 times the scale
    array([[3.25, 8.42]])
    """

    least_scale: float = 1e-4
    name = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "least_scale", real("least_scale", self.least_scale, "(0, inf)"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The mean and the scale."""
        return "mean", "scale"

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return mean and scale."""
        mean, raw = outputs
        return mean, ops.softplus(raw) + self.least_scale

    def quantile(self, described: Mapping[str, Any], level: float) -> Any:
        """Return a quantile of the distribution."""
        return described["mean"] + normal_quantile(level) * described["scale"]

    def value(self, ops: Ops, mean: Any, scale: Any, target: Any) -> Any:
        """Return the loss of one target."""
        mean, scale = self.distribution(ops, mean, scale)
        d = (target - mean) / scale
        return ops.log(scale) + 0.5 * (d * d) + 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, repr=False)
class StudentT(Loss):
    """The negative log-likelihood of Student's t-distribution, for targets with outliers.

    Parameters
    ----------
    df : float > 0, optional
        Degrees of freedom; default: an output of the model, above 2, so that the variance is finite.
    least_scale : float > 0
        As for `Gaussian`.

    See Also
    --------
    Gaussian, Huber

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import StudentT
    >>> z, outlier = np.zeros((2, 1, 1)), np.array([[[50.0]]])  # outputs for the mean and the scale
    >>> heavy_tails, nearly_normal = (float(StudentT(df)(z, outlier)[0]) for df in (1.0, 1000.0))
    >>> heavy_tails < 10 < 500 < nearly_normal
    True
    """

    df: float | None = None
    least_scale: float = 1e-4
    name = "student_t"

    def __post_init__(self) -> None:
        if self.df is not None:
            object.__setattr__(self, "df", real("df", self.df, "(0, inf)"))
        object.__setattr__(self, "least_scale", real("least_scale", self.least_scale, "(0, inf)"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The mean, the scale and, unless given, the degrees of freedom."""
        return ("mean", "scale") if self.df is not None else ("mean", "scale", "df")

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return mean, scale and, unless given, the degrees of freedom."""
        mean, raw, *df = outputs
        return mean, ops.softplus(raw) + self.least_scale, *[2.0 + ops.softplus(x) for x in df]

    def quantile(self, described: Mapping[str, Any], level: float) -> Any:
        """Return a quantile of the distribution."""
        if self.df is not None and self.df < 1:
            raise ValueError(f"`df` of the loss must be at least 1 for quantiles; got {self.df}")
        t = t_quantiles(level, described["df"]) if self.df is None else t_quantile(level, self.df)
        return described["mean"] + t * described["scale"]

    def value(self, ops: Ops, *operands: Any) -> Any:
        """Return the loss of one target."""
        *outputs, target = operands
        mean, scale, *rest = self.distribution(ops, *outputs)
        df: Any = rest[0] if rest else self.df
        ratio: Any = _log_gamma_ratio(ops, 0.5 * df) if rest else math.lgamma((df + 1) / 2) - math.lgamma(df / 2)
        of_df = ops.log(df) if rest else math.log(df)
        d = (target - mean) / scale
        spread = ops.log(scale) + 0.5 * (of_df + math.log(math.pi)) - ratio
        return spread + 0.5 * (df + 1.0) * ops.log(1.0 + d * d / df)


# Of the asymptotic series of log(Gamma(x + 1/2) / Gamma(x)) - log(x) / 2 in odd powers of 1 / x.
_SERIES = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432)


def _log_gamma_ratio(ops: Ops, x: Any) -> Any:
    """Return log(Gamma(x + 1/2) / Gamma(x)) for x >= 1, which loses no digits for large x."""
    shift = 8
    below: Any = 0.0
    for k in range(shift):
        below = below + ops.log((x + k) / (x + (k + 0.5)))
    inverse = 1.0 / (x + float(shift))
    square = inverse * inverse
    series: Any = 0.0
    for coefficient in reversed(_SERIES):
        series = coefficient + series * square
    return below + series * inverse - 0.5 * ops.log(inverse)


@dataclass(frozen=True, repr=False)
class Poisson(Loss):
    """The negative log-likelihood of counts, without the term log(target!), for the logarithm of their rate.

    See Also
    --------
    Gaussian, SquaredError

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import Poisson
    >>> z = np.log(np.array([[[1.0, 4.0]]]))  # the model puts out the logarithm of the rate
    >>> Poisson().predict(np, z).round(6)
    array([[[1., 4.]]])
    >>> loss, dz = Poisson()(z, np.array([[[3.0, 5.0]]]))
    >>> (2 * dz).round(6)  # for each of the two steps: rate - count
    array([[[-2., -1.]]])
    """

    name = "poisson"
    least = 0.0

    @property
    def outputs(self) -> tuple[str, ...]:
        """The rate."""
        return ("rate",)

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return the rate."""
        return (ops.exp(outputs[0]),)

    def quantile(self, described: Mapping[str, Any], level: float) -> Any:
        """Return a quantile of the distribution, a count; the host computes it."""
        rate = described["rate"]
        counts = poisson_quantiles(level, ns.to_host(rate))
        return ns.namespace(rate).asarray(counts, device=ns.device(rate))

    def value(self, ops: Ops, y: Any, target: Any) -> Any:
        """Return the loss of one target."""
        return ops.exp(y) - target * y
