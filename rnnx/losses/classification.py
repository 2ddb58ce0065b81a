"""Losses of classes and labels."""

from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import real
from rnnx.cells.vocabulary import Ops
from rnnx.engines.operations import Loss as RowLoss
from rnnx.engines.operations import Statistic
from rnnx.functional.activations import softmax
from rnnx.functional.losses import CROSS_ENTROPY, shifted
from rnnx.losses.loss import Loss


def _one(ops: Ops, y: Any, *_others: Any) -> Any:
    return ops.constant(1.0, y)


@dataclass(frozen=True)
class _SmoothedValue:
    smoothing: float

    def __call__(self, ops: Ops, _largest: Any, total: Any, at_target: Any, of_all: Any, n: Any) -> Any:
        return ops.log(total) - (1 - self.smoothing) * at_target - self.smoothing * of_all / n


@dataclass(frozen=True)
class _SmoothedGradient:
    smoothing: float

    def __call__(
        self, ops: Ops, e: Any, target: Any, _largest: Any, total: Any, _at: Any, _all: Any, n: Any
    ) -> tuple[Any]:
        p = e * (1 / total) - self.smoothing / n
        return (ops.where(target, p - (1 - self.smoothing), p),)


@dataclass(frozen=True, repr=False)
class CrossEntropy(Loss):
    """The negative log-likelihood of the class under the softmax of the outputs.

    Parameters
    ----------
    label_smoothing : float, in [0, 1)
        This part of the probability of the target is spread evenly over all classes.

    See Also
    --------
    BinaryCrossEntropy, MultiLabel, rnnx.softmax_cross_entropy

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import CrossEntropy
    >>> z = np.array([[[9.0]], [[0.0]], [[0.0]]])  # logits (classes, m, T), sure of class 0
    >>> [round(float(CrossEntropy(smoothing)(z, np.array([[0]]))[0]), 2) for smoothing in (0.0, 0.1)]
    [0.0, 0.6]
    """

    label_smoothing: float = 0.0
    name = "cross_entropy"
    kind = "classes"

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_smoothing", real("label_smoothing", self.label_smoothing, "[0, 1)"))

    @property
    def rule(self) -> RowLoss:
        """The loss as engines compute it."""
        if not self.label_smoothing:
            return CROSS_ENTROPY
        statistics = (*CROSS_ENTROPY.statistics, Statistic("sum", shifted), Statistic("sum", _one))
        of_row, gradient = _SmoothedValue(self.label_smoothing), _SmoothedGradient(self.label_smoothing)
        return RowLoss(True, statistics, of_row, gradient, kept=CROSS_ENTROPY.kept)

    def predict(self, xp: Any, z: Array) -> Array:
        """Return the probabilities of the classes."""
        return softmax(z)


class _Sigmoid(Loss):
    """The cross-entropy of a label and the sigmoid of an output."""

    positive_weight: float = 1.0

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return the probability of the label."""
        return (ops.sigmoid(outputs[0]),)

    def value(self, ops: Ops, y: Any, target: Any) -> Any:
        """Return the loss of one target."""
        return self.positive_weight * target * ops.softplus(-y) + (1.0 - target) * ops.softplus(y)


@dataclass(frozen=True, repr=False)
class MultiLabel(_Sigmoid):
    """The cross-entropy of labels that do not exclude each other: numbers 0 or 1, or between.

    Parameters
    ----------
    positive_weight : float > 0
        Factor of the loss where a label is 1, if labels are rare.

    See Also
    --------
    BinaryCrossEntropy, CrossEntropy

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import MultiLabel
    >>> z = np.array([[[3.0]], [[3.0]], [[-3.0]]])  # three labels of one step: (labels, m, T)
    >>> MultiLabel().predict(np, z)[:, 0, 0].round(2)  # they need not add up to 1
    array([0.95, 0.95, 0.05])
    >>> targets = np.array([[[0.0]], [[0.0]], [[1.0]]])
    >>> missing_a_rare_label = MultiLabel(positive_weight=9.0)(z, targets)[0] > MultiLabel()(z, targets)[0]
    >>> bool(missing_a_rare_label)  # costs more
    True
    """

    positive_weight: float = 1.0
    name = "multi_label"
    kind = "labels"
    least, most = 0.0, 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive_weight", real("positive_weight", self.positive_weight, "(0, inf)"))


@dataclass(frozen=True, repr=False)
class BinaryCrossEntropy(_Sigmoid):
    """The cross-entropy of two classes, 0 and 1, and the sigmoid of one output, which belongs to class 1.

    See Also
    --------
    CrossEntropy, MultiLabel, rnnx.metrics.roc_auc

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import BinaryCrossEntropy
    >>> BinaryCrossEntropy().predict(np, np.array([[0.0, 2.0]])).round(2)  # one output, two probabilities
    array([[0.5 , 0.12],
           [0.5 , 0.88]])
    """

    name = "binary"
    kind = "classes"

    def n_outputs(self, size: int) -> int:
        """Return 1."""
        return 1

    def n_targets(self, n_outputs: int) -> int:
        """Return 2."""
        return 2

    def compare(
        self, xp: Any, y: Array, targets: Array, ends: Array | None = None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute the loss and its gradient without checks."""
        return super().compare(xp, y, ns.astype(xp, targets, y.dtype)[None, ...], ends, weights)

    def predict(self, xp: Any, z: Array) -> Array:
        """Return the probabilities of both classes."""
        return super().predict(xp, xp.concat([-z, z], axis=0))
