"""The mathematics of the losses, for all engines; see `rnnx.engines.operations.Loss`."""

from typing import Any

from rnnx.cells.vocabulary import Ops
from rnnx.engines.operations import Loss, Statistic
from rnnx.engines.softmax import LARGEST, TOTAL


def shifted(_ops: Ops, y: Any, _target: Any, largest: Any, *_others: Any) -> Any:
    """Return y minus the largest one of the row."""
    return y - largest


def _log_likelihood(ops: Ops, _largest: Any, total: Any, at_target: Any) -> Any:
    return ops.log(total) - at_target


def _softmax_gradient(ops: Ops, e: Any, target: Any, _largest: Any, total: Any, _at_target: Any) -> tuple[Any]:
    p = e * (1 / total)  # one division for a row
    return (ops.where(target, p - 1, p),)


def _square(_ops: Ops, y: Any, target: Any) -> Any:
    return (y - target) * (y - target)


def _sum_of_squares(_ops: Ops, total: Any) -> Any:
    return total


def _square_gradient(_ops: Ops, y: Any, target: Any, _total: Any) -> tuple[Any]:
    return (2 * (y - target),)


# L = log(sum(exp(y))) - y_target
CROSS_ENTROPY = Loss(
    True,
    (LARGEST, TOTAL, Statistic("target", shifted)),
    _log_likelihood,
    _softmax_gradient,
    kept=1,
)

# L = sum((y - target)^2)
SQUARED_ERROR = Loss(False, (Statistic("sum", _square),), _sum_of_squares, _square_gradient)
