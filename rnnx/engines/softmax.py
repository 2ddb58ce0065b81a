"""The softmax of a row, for engines: the gradient of log(sum(exp(y))); see `rnnx.engines.operations.Loss`."""

from typing import Any

from rnnx.cells.vocabulary import Ops
from rnnx.engines.operations import Loss, Statistic


def _largest(_ops: Ops, y: Any, _target: Any) -> Any:
    return y


def _shifted_exp(ops: Ops, y: Any, _target: Any, largest: Any) -> Any:
    return ops.exp(y - largest)  # cannot overflow


def _log_total(ops: Ops, largest: Any, total: Any) -> Any:
    return largest + ops.log(total)


def _softmax(_ops: Ops, e: Any, _target: Any, _largest: Any, total: Any) -> tuple[Any]:
    return (e / total,)


LARGEST, TOTAL = Statistic("maximum", _largest), Statistic("sum", _shifted_exp)
LOG_SUM_EXP = Loss(False, (LARGEST, TOTAL), _log_total, _softmax, kept=1)
